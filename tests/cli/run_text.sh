# run: greedy text as the independent implementation writes it; the same seed gives the same text.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" lossless.kpk --recipe lossless
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" q4.kpk

expect 0 "$PYTHON" - "$KOMPAKT" "$DATA/checkpoints/tiny-v3/reference.json" <<'TEXT'
import json, subprocess, sys
program, reference = sys.argv[1], json.load(open(sys.argv[2]))
failures = 0
for case in reference["greedy"]:
    command = [program, "run", "lossless.kpk", "-p", case["prompt"], "-n", str(len(case["greedy_ids"])), "--temp", "0",
               "--kv", "f32"]
    answer = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    for what, wanted in (("prompt_ids", case["prompt_ids"]), ("ids", case["greedy_ids"]), ("text", case["text"])):
        if answer[what] != wanted:
            print(f"{case['prompt']}: {what} expected {wanted}, found {answer[what]}")
            failures += 1
    plain = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    if plain.removesuffix("\n") != case["text"]:
        print(f"{case['prompt']}: stdout expected {case['text']!r}, found {plain!r}")
        failures += 1
sys.exit(failures)
TEXT

sample() { "$KOMPAKT" run q4.kpk -p "The President" -n 40 --temp 0.9 --top-p 0.95 --seed "$1" "${@:2}"; }
expect 0 sample 1
first=$(<.stdout)
expect 0 sample 1
stdout_is "$first"
expect 0 sample 1 -t 1
stdout_is "$first"
expect 0 sample 2
check "another seed, another text" test "$first" != "$(<.stdout)"

# stdout carries the answer alone, --stats goes to stderr.
expect 0 sample 1 --stats
stdout_is "$first"
stderr_has '[0-9] tokens/s'
stderr_has '40 tokens'
stderr_has '[Mm]emory'
from_stdin() { printf 'The President' | sample_from -; }
sample_from() { "$KOMPAKT" run q4.kpk -f "$1" -n 40 --temp 0.9 --top-p 0.95 --seed 1; }
expect 0 from_stdin
stdout_is "$first"
expect 0 "$KOMPAKT" run q4.kpk -p "The President" -n 0
stdout_is ''

expect 2 "$KOMPAKT" run q4.kpk
stderr_has '-p'
expect 2 "$KOMPAKT" run q4.kpk -p "The President of the United States" -c 3
expect 2 "$KOMPAKT" run q4.kpk -p x --temp -1
expect 2 "$KOMPAKT" run q4.kpk -p x --think on
stderr_has '--chat'
expect 4 "$KOMPAKT" run absent.kpk -p x
expect 3 "$KOMPAKT" run "$DATA/text/eval.txt" -p x

# A chat: the template of the model's family, or of one that is named.
expect 0 "$KOMPAKT" run q4.kpk -p "Hello" --chat -n 8
expect 0 "$KOMPAKT" run q4.kpk -p "Hello" --chat --chat-template deepseek-r1 --think on -n 8 --json
stdout_has '"thought"'
expect 2 "$KOMPAKT" run q4.kpk -p "Hello" --chat --chat-template deepsek-r1
stderr_has '[Dd]id you mean.*deepseek-r1'

# The cache: its format is what --kv says, and half of F32 by default.
cache_of() { sed -n 's/.*KV cache \([0-9.]* [kM]*B\) (\(.*\))$/\1 \2/p' .stderr; }
expect 0 "$KOMPAKT" run q4.kpk -p "The President" -n 4 -c 100 --stats
check "bf16 by default" test "$(cache_of)" = "128 kB bf16"
expect 0 "$KOMPAKT" run q4.kpk -p "The President" -n 4 -c 100 --stats --kv f32
check "f32 takes twice that" test "$(cache_of)" = "256 kB f32"
expect 0 "$KOMPAKT" run q4.kpk -p "The President" -n 4 -c 100 --stats --kv int8
check "int8" test "$(cache_of)" = "80.0 kB int8"
expect 2 "$KOMPAKT" run q4.kpk -p "The President" --kv int4
stderr_has 'kv: expected one of f32, bf16, int8'
