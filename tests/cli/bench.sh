# bench: speeds as a table or JSON, beside probes. bench --ops: a table or JSON, every case beside its probes; --list says what each set supports.
expect 0 "$KOMPAKT" bench --ops --filter 'add v2-lite tokens=1' -t 1 -r 1
stdout_has '^add v2-lite hidden tokens=1 +1 '
stdout_lacks 'tokens=512'

expect 0 "$KOMPAKT" bench --ops --filter 'linear q8_g32 act=f32 kv_a tokens=1' -t 1,2 -r 2 --json
cp .stdout ops.json
expect 0 "$PYTHON" - ops.json <<'TEXT'
import json, sys
answer = json.load(open(sys.argv[1]))
assert answer["kernels"] and answer["product"], answer
assert [row["threads"] for row in answer["ops"]] == [1, 2], answer
for row in answer["ops"]:
    assert row["case"] == "linear q8_g32 act=f32 v2-lite kv_a_proj 576x2048 tokens=1", row
    assert row["bytes_per_second"] > 0 and row["read_probe_bytes_per_second"] > 0, row
    assert row["products_per_second"] > 0 and row["product_probe_per_second"] > 0, row
    assert row["bound"] in ("memory", "products"), row
    assert 0 < row["fraction_least"] <= row["fraction_of_bound"] <= row["fraction_most"], row
TEXT

expect 0 "$KOMPAKT" bench --ops --list
stdout_has '^expert_ffn +q4_g16 +decoded +decoded'
[[ $(uname -m) != x86_64 ]] || stdout_has '^linear +bf16 +decoded +decoded +native'
stdout_has '^reference: '
expect 0 "$KOMPAKT" bench --ops --list --json
stdout_has '"op": "mla_decode"'
KOMPAKT_ISA=reference expect 0 "$KOMPAKT" bench --ops --filter 'rms_norm v2-lite tokens=1' -t 1 -r 1
stdout_has '^kernels reference'

# A model: prompts at depth 0, generation at each depth; every number of threads.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" tiny.kpk --recipe q4
expect 0 "$KOMPAKT" bench tiny.kpk -p 20 -n 3 -t 1,2 -r 2 --json
cp .stdout model.json
expect 0 "$PYTHON" - model.json <<'TEXT'
import json, sys
answer = json.load(open(sys.argv[1]))
assert answer["parameters"] > 0 and answer["tensor_bytes"] > 0, answer
assert answer["depth_rows"] == "random" and answer["energy"], answer
rows = answer["results"]
tests = ["pp20", "tg3", "tg3 @ 4096", "tg3 @ 16384"]
assert [(row["test"], row["threads"]) for row in rows] == [(t, n) for n in (1, 2) for t in tests], rows
for row in rows:
    assert len(row["tokens_per_second_samples"]) == 2, row
    assert row["tokens_per_second"] > 0 and row["tokens_per_second_stddev"] >= 0, row
    assert row["read_probe_bytes_per_second"] > 0 and row["product_probe_per_second"] > 0, row
    assert row["fraction_of_bound"] > 0 and row["bound"] in ("memory", "products"), row
    assert row["joules_per_token"] is None or row["joules_per_token"] > 0, row
cache = [row["cache_bytes_per_token"] for row in rows[1:4]]
assert cache[0] < cache[1] < cache[2], cache
assert rows[1]["weight_bytes_per_token"] == rows[3]["weight_bytes_per_token"], rows
TEXT
# As llama-bench: every length at every depth that is named.
expect 0 "$KOMPAKT" bench -m tiny.kpk -p 8,4 -n 2 -d 0,16 -t 1 -r 1
for test in 'pp4' 'pp8' 'pp4 @ 16' 'pp8 @ 16' 'tg2' 'tg2 @ 16'; do stdout_has "^$test +1 "; done
expect 0 "$KOMPAKT" bench tiny.kpk -p 0 -n 2 -d 0 -t 1 -r 1
stdout_lacks '^pp'
expect 0 "$KOMPAKT" bench --synthetic v2-lite --layers 1 --recipe q3 -p 4 -n 2 -d 8 -t 2 -r 1
stdout_has '^DeepSeek-V2-Lite, 1 of 27 layers, recipe q3, random weights: '
stdout_has '^tg2 @ 8 +2 '

# Experts read as they are needed: the disk beside what it gives.
expect 0 "$KOMPAKT" bench tiny.kpk --ram 16MiB -p 8 -n 4 -d 0 -t 1 -r 2 --json
cp .stdout paged.json
expect 0 "$PYTHON" - paged.json model.json <<'TEXT'
import json, sys
paged, mapped = (json.load(open(path)) for path in sys.argv[1:])
assert [row["test"] for row in paged["results"]] == ["pp8", "tg4"], paged
for row in paged["results"]:
    experts = row["experts"]
    assert experts["tokens"] == 2 * (row["n_prompt"] + row["n_gen"]) and experts["uses"] > 0, row
    assert experts["hits"] + experts["guessed"] + experts["misses"] == experts["uses"], row
    assert 0 <= row["missed_bytes_per_token"] <= experts["read_bytes_per_token"], row
    assert row["disk_probe_bytes_per_second"] > 0 and row["bound"] in ("memory", "products", "disk"), row
assert not any("experts" in row for row in mapped["results"]), mapped
TEXT
expect 0 "$KOMPAKT" bench tiny.kpk --ram 16MiB -p 0 -n 4 -d 0 -t 1 -r 1
stdout_has '^  experts: .* in memory, .* the disk gives .*B/s$'

# On a device: the same tests, one number of threads, and no probe in a simulator.
expect 0 "$KOMPAKT" bench tiny.kpk -p 10 -n 2 -d 0,70 -t 1,2 -r 2 --device cuda-sim --json
cp .stdout device.json
expect 0 "$PYTHON" - device.json model.json <<'TEXT'
import json, sys
answer, cpu = (json.load(open(path)) for path in sys.argv[1:])
assert answer["device"] == "CUDA simulator" and cpu["device"] == "cpu", answer
assert answer["energy"].startswith("not measured (a simulator"), answer
rows = answer["results"]
assert [row["test"] for row in rows] == ["pp10", "pp10 @ 70", "tg2", "tg2 @ 70"], rows
for row in rows:
    assert row["threads"] == 2 and len(row["tokens_per_second_samples"]) == 2 and row["tokens_per_second"] > 0, row
    for key in ("read_probe_bytes_per_second", "product_probe_per_second", "bound", "fraction_of_bound"):
        assert row[key] is None, row
    assert "and the head" in row["placement"], row
assert rows[2]["weight_bytes_per_token"] == cpu["results"][1]["weight_bytes_per_token"], rows
TEXT
expect 0 "$KOMPAKT" bench tiny.kpk -p 0 -n 1 -d 5 -r 1 --device cuda-sim -ngl 1 --kv f32
stdout_has '^device CUDA simulator \(its speeds say nothing of a GPU\); on the host kernels .*; cache bf16$'
stdout_has '^tg1 @ 5 .* - .* - +not measured'
expect 0 "$KOMPAKT" bench --synthetic v2-lite --layers 1 --recipe q4 -p 0 -n 1 -d 3 -r 1 --device cuda-sim
stdout_has '^tg1 @ 3 '

# What is refused.
expect 2 "$KOMPAKT" bench --ops --device cuda-sim
stderr_has '--device cpu'
expect 2 "$KOMPAKT" bench tiny.kpk --device cuda-sin
stderr_has 'cuda-sim'
expect 2 "$KOMPAKT" bench
stderr_has '--synthetic'
expect 2 "$KOMPAKT" bench tiny.kpk --synthetic v2-lite
expect 2 "$KOMPAKT" bench tiny.kpk --ops
expect 2 "$KOMPAKT" bench tiny.kpk --recipe q4
expect 2 "$KOMPAKT" bench --synthetic v2-lite --ram 1GiB
expect 2 "$KOMPAKT" bench tiny.kpk --ram 1MiB
stderr_has '--ram: expected at least .* found 1 MiB'
expect 2 "$KOMPAKT" bench tiny.kpk -p 0 -n 0
expect 2 "$KOMPAKT" bench tiny.kpk -d 4096,many
stderr_has '-d.*many'
expect 2 "$KOMPAKT" bench --synthetic v2-lit
stderr_has 'did you mean "v2-lite"'
expect 2 "$KOMPAKT" bench --synthetic v2-lite --recipe q44
expect 2 "$KOMPAKT" bench --synthetic v2-lite --layers 28
stderr_has '27'
expect 4 "$KOMPAKT" bench --synthetic v2-lite -d 10000000
stderr_has 'memory'
expect 4 "$KOMPAKT" bench absent.kpk
stderr_has 'absent\.kpk'
expect 2 "$KOMPAKT" bench --ops --filter 'linaer'
stderr_has 'leaves no case.*the ops are embed, rms_norm, linear'
expect 2 "$KOMPAKT" bench --ops -t 1,many
stderr_has '-t.*many'
expect 2 "$KOMPAKT" bench --ops -t -1
expect 2 "$KOMPAKT" bench --ops -r 0
stderr_has '-r'
KOMPAKT_ISA=nosuch expect 2 "$KOMPAKT" bench --ops --filter 'add v2-lite'
stderr_has 'nosuch'
