# --ram: a packed model answers the same within a promise of memory, and says what it read; less than it needs is refused.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" q4.kpk
answer() { "$KOMPAKT" run "$1" -p "The President of the United States" -n 24 --temp 0 "${@:2}"; }
expect 0 answer q4.kpk
text=$(<.stdout)

# What is least is in the message, and is enough.
expect 2 answer q4.kpk --ram 1MiB
stderr_has 'expected at least [0-9]+ MiB, found 1 MiB: .*weights that every token uses, .*KV cache for [0-9]+ tokens'
stdout_empty
least=$(grep -oE 'at least [0-9]+ MiB' .stderr | grep -oE '[0-9]+')
expect 0 answer q4.kpk --ram "$((least + 1))MiB"
stdout_is "$text"
expect 0 answer q4.kpk --ram "$((least + 1))MiB" --stats -t 1
stdout_is "$text"
stderr_has 'experts of the prompt: [0-9.]+ % in memory, .* read per token'
stderr_has 'experts of the answer: [0-9.]+ % in memory, .* waited [0-9.]+ s'
expect 0 answer q4.kpk --ram 2GB --json
check "JSON tells what was read" "$PYTHON" -c 'import json, sys
answer = json.load(open(".stdout"))
experts = answer["experts"]["answer"]
assert experts["uses"] == experts["hits"] + experts["guessed"] + experts["misses"], experts
assert experts["tokens"] == 23, experts
assert answer["experts"]["prompt"]["read_bytes"] > 0
assert 0 <= experts["hit_rate"] <= 1'
expect 0 answer q4.kpk --json
check "without --ram nothing is read by itself" "$PYTHON" -c 'import json
assert "experts" not in json.load(open(".stdout"))'

# Volumes are read like one file, and other verbs take the promise too.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" set.kpk --volume-size 4MiB
expect 0 answer set.kpk --ram "$((least + 1))MiB"
stdout_is "$text"
head -c 6000 "$DATA/text/eval.txt" >text.txt
expect 0 "$KOMPAKT" perplexity q4.kpk -f text.txt -c 128
mapped=$(grep -oE 'perplexity [0-9.]+ \+/- [0-9.]+' .stdout)
expect 0 "$KOMPAKT" perplexity q4.kpk -f text.txt -c 128 --ram 300MiB
stdout_has "${mapped//+/[+]}"
expect 0 "$KOMPAKT" compare "$DATA/checkpoints/tiny-v3" q4.kpk -f text.txt -c 128 --floor-chunks 0 --json
kl='import json; c = json.load(open(".stdout")); c.pop("seconds", 0); print(json.dumps(c))'
mapped=$("$PYTHON" -c "$kl")
expect 0 "$KOMPAKT" compare "$DATA/checkpoints/tiny-v3" q4.kpk -f text.txt -c 128 --floor-chunks 0 --json --ram 100MiB
check "compare finds the same" test "$mapped" = "$("$PYTHON" -c "$kl")"

# What to expect is told before.
expect 2 "$KOMPAKT" inspect q4.kpk --ram 2MiB -c 64
stderr_has 'expected at least [0-9]+ MiB'
# This process is another one, and smaller.
least=$(grep -oE 'at least [0-9]+ MiB' .stderr | grep -oE '[0-9]+')
expect 0 "$KOMPAKT" inspect q4.kpk --ram "$((least + 1))MiB" -c 64
stdout_has 'experts +.*: [0-9]+ of 16 in each of 3 layers'
stdout_has 'disk +[0-9.]+ .B/s'
stdout_has 'a token +reads .* the disk allows [0-9.]+ tokens/s'
expect 0 "$KOMPAKT" inspect q4.kpk --ram 1GiB --json
stdout_has '"experts_in_memory_per_layer": ?16'

# What cannot be.
expect 2 answer "$DATA/checkpoints/tiny-v3" --ram 1GiB
stderr_has 'expected a packed file'
expect 2 answer q4.kpk --ram much
stderr_has 'expected an amount'

# A record that changed on disk is named where it is first used.
"$PYTHON" - <<'TEXT'
import json, os, subprocess
data = bytearray(open("q4.kpk", "rb").read())
plan = json.loads(subprocess.run([os.environ["KOMPAKT"], "inspect", "q4.kpk", "--tensor",
                                  "model.layers.1.mlp.experts.0.up_proj.weight", "--json"],
                                 capture_output=True, check=True).stdout)
data[plan["offset"] + 5] ^= 1
open("damaged.kpk", "wb").write(data)
TEXT
expect 3 "$KOMPAKT" perplexity damaged.kpk -f text.txt -c 128 --ram 300MiB
stderr_has 'damaged.kpk: layer 1: expert 0, .*expected XXH3 [0-9a-f]+, found [0-9a-f]+'
