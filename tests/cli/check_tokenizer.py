"""Compares `kompakt tokenize` with goldens, one process per line.

    check_tokenizer.py KOMPAKT MODEL GOLDENS.jsonl STEP    every STEP-th line
"""
import json
import subprocess
import sys

program, model, goldens, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
failures = 0
with open(goldens, encoding="utf-8") as file:
    cases = [json.loads(line) for line in file][::step]
for case in cases:
    with open("text.txt", "wb") as file:
        file.write(case["text"].encode())
    out = subprocess.run([program, "tokenize", model, "-f", "text.txt", "--json"], capture_output=True)
    answer = json.loads(out.stdout) if out.returncode == 0 else {"ids": None, "pieces": [out.stderr.decode()]}
    if answer["ids"] != case["ids"]:
        print(f"{case['text'][:60]!r}: expected {case['ids'][:20]}, found {answer['ids']} {answer['pieces'][:20]}")
        failures += 1
        continue
    if "".join(answer["pieces"]) != case["decoded"]:
        print(f"{case['text'][:60]!r}: pieces give {''.join(answer['pieces'])[:60]!r}")
        failures += 1
    if case["ids"]:
        ids = ",".join(map(str, case["ids"]))
        out = subprocess.run([program, "tokenize", model, "--decode", ids], capture_output=True)
        if out.stdout.decode() != case["decoded"]:
            print(f"--decode {ids[:60]}: expected {case['decoded'][:60]!r}, found {out.stdout.decode()[:60]!r}")
            failures += 1
print(f"{len(cases)} texts, {failures} differences")
sys.exit(1 if failures or not cases else 0)
