"""Kills a conversion with SIGKILL at points spread over its progress and resumes it.

    kill_and_resume.py KOMPAKT SOURCE POINTS

After every kill the destination is absent (or, when the conversion was faster than the kill, complete); the resumed
conversion must give the bytes of an uninterrupted one. Progress is the size of the journal, so the points do not depend
on the speed of the machine. Half of the points start from nothing, half go on killing what was resumed.
--once SIGNAL kills once, early, and leaves half.kpk.partial behind; its exit code is the conversion's.
"""
import hashlib
import os
import random
import signal
import subprocess
import sys


def convert(program, source, destination):
    return subprocess.Popen(
        [program, "convert", source, destination, "-t", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def journal_bytes(destination):
    try:
        return os.stat(destination + ".partial.journal").st_size
    except FileNotFoundError:
        return 0


def journal_head_bytes(destination):
    """The journal's entries follow a head: 8 bytes, u32 n, n bytes, 8 bytes (format/journal.h)."""
    try:
        with open(destination + ".partial.journal", "rb") as file:
            start = file.read(12)
    except FileNotFoundError:
        start = b""
    return 20 + int.from_bytes(start[8:], "little") if len(start) == 12 else 0


def finish(process, what):
    output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{what}: exit code {process.returncode}\n{output.decode()}")


def kill_at(program, source, destination, journal_target):
    """True when the kill came before the end."""
    process = convert(program, source, destination)
    while process.poll() is None and journal_bytes(destination) < journal_target:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def once(program, source, signal_name):
    process = subprocess.Popen([program, "convert", source, "half.kpk", "-t", "1"])
    while process.poll() is None:
        head = journal_head_bytes("half.kpk")
        if head > 0 and journal_bytes("half.kpk") > head + 1000:
            break
    process.send_signal(getattr(signal, signal_name))
    sys.exit(process.wait() % 256)


def main():
    program, source = sys.argv[1:3]
    if sys.argv[3] == "--once":
        once(program, source, sys.argv[4])
    points = int(sys.argv[3])
    process = convert(program, source, "whole.kpk")
    head = longest = 0
    while process.poll() is None:
        head = max(head, journal_head_bytes("whole.kpk"))
        longest = max(longest, journal_bytes("whole.kpk"))
    finish(process, "the uninterrupted conversion")
    wanted = digest("whole.kpk")
    if longest <= head or head == 0:
        sys.exit("the conversion kept no journal that could be seen")

    rng = random.Random(20)
    shares = sorted(rng.uniform(0, 1) for _ in range(points))
    killed = 0
    for number, share in enumerate(shares):
        destination = "chained.kpk" if number % 2 else f"fresh-{number}.kpk"
        # The first two before the first finished record.
        target = share * head if number < 2 else head + share * (longest - head)
        was_killed = kill_at(program, source, destination, int(target))
        killed += was_killed
        if os.path.exists(destination) and digest(destination) != wanted:
            sys.exit(f"killed at {share:.2f}: {destination} exists and is not the complete file")
        if number % 2 and number + 2 < points:
            continue  # the next odd point kills what this one left
        finish(convert(program, source, destination), f"resuming after {share:.2f}")
        if digest(destination) != wanted:
            sys.exit(f"resumed after {share:.2f}: other bytes than an uninterrupted conversion")
        left = [name for name in os.listdir(".") if name.startswith(destination) and name != destination]
        if left:
            sys.exit(f"resumed after {share:.2f}: left behind {left}")
        os.remove(destination)
    print(f"{killed} of {points} conversions were killed before their end")
    # The last points may come after the last record; most must have hit.
    if killed < points // 2:
        sys.exit("too few kills hit a running conversion to prove anything")


if __name__ == "__main__":
    main()
