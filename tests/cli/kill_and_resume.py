"""Kills conversions with SIGKILL at seeded random points and goes on with them.

    kill_and_resume.py KOMPAKT SOURCE POINTS

A third of the points each: one file, a set of volumes, one file in two parts that run at the same time (of which both
are killed, or one). A destination is killed up to three times before a last run finishes it. After every kill whatever
opens as a packed file must verify and be the complete one; after the last run there are the bytes of an uninterrupted
conversion and nothing else. Progress is the size of the journals, so most points do not depend on the speed of the
machine; every fourth comes some time after the last entry, while the file is completed.
--once SIGNAL kills once, early, and leaves half.kpk.partial behind; its exit code is the conversion's.
"""
import glob
import hashlib
import os
import random
import signal
import subprocess
import sys
import time

SEED = 20
FORMS = {"file": [], "volumes": ["--volume-size", "4MiB"], "parts": []}
MAGIC_BYTES = 4


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def journal_bytes(stem):
    total = 0
    for path in glob.glob(stem + ".kpk.partial.journal*"):
        try:
            total += os.stat(path).st_size
        except FileNotFoundError:
            pass
    return total


def journal_head_bytes(path):
    """The journal's entries follow a head: 8 bytes, u32 n, n bytes, 8 bytes (format/journal.h)."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except FileNotFoundError:
        start = b""
    return 20 + int.from_bytes(start[8:], "little") if len(start) == 12 else 0


class Conversions:
    def __init__(self, program, source):
        self.program = program
        self.source = source
        self.rng = random.Random(SEED)
        self.expected = {}  # form -> what follows the stem of a name -> digest
        self.journal = {}  # form -> (bytes of the heads, most bytes)
        self.seconds_to_complete = {}  # form -> from the last entry to the end
        self.killed = self.completing = self.opened = 0

    def start(self, stem, form, part=None):
        command = [self.program, "convert", self.source, stem + ".kpk", "-t", "1"] + FORMS[form]
        if part:
            command += ["--part", part]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start_form(self, stem, form):
        if form == "parts":
            return [self.start(stem, form, "1/2"), self.start(stem, form, "2/2")]
        return [self.start(stem, form)]

    def finish(self, process, what):
        output, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(f"{what}: exit code {process.returncode}\n{output.decode()}")

    def measure(self, form):
        stem = "whole-" + form
        processes = self.start_form(stem, form)
        head = most = 0
        last_change = time.monotonic()
        while any(process.poll() is None for process in processes):
            head = max(head, sum(journal_head_bytes(path) for path in glob.glob(stem + ".kpk.partial.journal*")))
            now = journal_bytes(stem)
            if now > most:
                most, last_change = now, time.monotonic()
            time.sleep(0.0005)
        self.seconds_to_complete[form] = time.monotonic() - last_change
        for process in processes:
            self.finish(process, f"the uninterrupted conversion of {form}")
        self.finish_all(stem, form, 0)
        self.journal[form] = (head, most)
        self.expected[form] = {path[len(stem):]: digest(path) for path in glob.glob(stem + "*")}
        if head == 0 or most <= head:
            sys.exit(f"{form}: the conversion kept no journal that could be seen")

    def finish_all(self, stem, form, how):
        """how: 0 part after part, the first once more for what it could not complete; 1 a process for the whole."""
        if form != "parts" or how == 1:
            self.finish(self.start(stem, form), f"the last run of {stem}")
            return
        for part in ("1/2", "2/2"):
            self.finish(self.start(stem, form, part), f"part {part} of {stem}")

    def kill(self, stem, form):
        head, most = self.journal[form]
        late = self.rng.random() < 0.25
        share, delay = self.rng.random(), self.rng.random() * self.seconds_to_complete[form] * 1.2
        only = self.rng.randrange(4)  # of two parts: 0 or 1 is killed alone
        target = most - 1 if late else int(share * most)
        processes = self.start_form(stem, form)
        while processes[-1].poll() is None and journal_bytes(stem) < target:
            time.sleep(0.0002)
        if late:
            time.sleep(delay)
        victims = processes[only : only + 1] if form == "parts" and only < 2 else processes
        for process in victims:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            output, _ = process.communicate()
            if process not in victims and process.returncode not in (0, 4):
                sys.exit(f"{stem}: the part that lived ended with {process.returncode}\n{output.decode()}")
        if any(process.returncode == -signal.SIGKILL for process in victims):
            self.killed += 1
            self.completing += late

    def check_what_lies_there(self, stem, form):
        for path in glob.glob(stem + "*"):
            if path.endswith(".journal") or ".journal." in path:
                continue
            name = path[len(stem):]
            with open(path, "rb") as file:
                if not any(file.read(MAGIC_BYTES)):
                    continue  # zeros are no packed file to anything
            self.opened += 1
            if digest(path) != self.expected[form].get(name.removesuffix(".partial")):
                verdict = subprocess.run([self.program, "verify", path], capture_output=True, text=True)
                sys.exit(f"{path} has the head of a packed file, but not its bytes; verify: {verdict.stdout}")
        first = stem + min(self.expected[form])
        if os.path.exists(first) and subprocess.run([self.program, "verify", first], capture_output=True).returncode:
            sys.exit(f"{first} is there and does not verify")

    def chain(self, number, form, kills):
        stem = f"{form}-{number}"
        for _ in range(kills):
            self.kill(stem, form)
            self.check_what_lies_there(stem, form)
        self.finish_all(stem, form, self.rng.randrange(2))
        found = {path[len(stem):]: digest(path) for path in glob.glob(stem + "*")}
        if found != self.expected[form]:
            sys.exit(f"{stem}: after the last run {sorted(found)}, expected {sorted(self.expected[form])} of other bytes")
        for name in found:
            os.remove(stem + name)


def once(program, source, signal_name):
    process = subprocess.Popen([program, "convert", source, "half.kpk", "-t", "1"])
    while process.poll() is None:
        head = journal_head_bytes("half.kpk.partial.journal")
        if head > 0 and journal_bytes("half") > head + 1000:
            break
    process.send_signal(getattr(signal, signal_name))
    sys.exit(process.wait() % 256)


def main():
    program, source = sys.argv[1:3]
    if sys.argv[3] == "--once":
        once(program, source, sys.argv[4])
    points = int(sys.argv[3])
    conversions = Conversions(program, source)
    for form in FORMS:
        conversions.measure(form)
    done = 0
    while done < points:
        for number, form in enumerate(FORMS):
            kills = min(conversions.rng.randint(1, 3), points - done)
            if kills > 0:
                conversions.chain(done, form, kills)
            done += kills
    print(
        f"{conversions.killed} of {points} kills met a running conversion, {conversions.completing} of them while it was "
        f"completed; {conversions.opened} packed files were there at those moments, all intact"
    )
    if conversions.killed < points * 3 // 5:
        sys.exit("too few kills met a running conversion to prove anything")


if __name__ == "__main__":
    main()
