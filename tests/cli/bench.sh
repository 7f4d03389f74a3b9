# bench --ops: a table or JSON, every case beside its probes; --list says what each set supports.
expect 0 "$KOMPAKT" bench --ops --filter 'add v2-lite tokens=1' -t 1 -r 1
stdout_has '^add v2-lite hidden tokens=1 +1 '
stdout_lacks 'tokens=512'

expect 0 "$KOMPAKT" bench --ops --filter 'linear q8_g32 kv_a tokens=1' -t 1,2 -r 2 --json
cp .stdout ops.json
expect 0 "$PYTHON" - ops.json <<'TEXT'
import json, sys
answer = json.load(open(sys.argv[1]))
assert answer["kernels"] and answer["product"], answer
assert [row["threads"] for row in answer["ops"]] == [1, 2], answer
for row in answer["ops"]:
    assert row["case"] == "linear q8_g32 v2-lite kv_a_proj 576x2048 tokens=1", row
    assert row["bytes_per_second"] > 0 and row["read_probe_bytes_per_second"] > 0, row
    assert row["products_per_second"] > 0 and row["product_probe_per_second"] > 0, row
    assert row["bound"] in ("memory", "products"), row
    assert 0 < row["fraction_least"] <= row["fraction_of_bound"] <= row["fraction_most"], row
TEXT

expect 0 "$KOMPAKT" bench --ops --list
stdout_has '^expert_ffn +q4_g16 +decoded'
stdout_has '^reference: '
expect 0 "$KOMPAKT" bench --ops --list --json
stdout_has '"op": "mla_decode"'
KOMPAKT_ISA=reference expect 0 "$KOMPAKT" bench --ops --filter 'rms_norm v2-lite tokens=1' -t 1 -r 1
stdout_has '^kernels reference'

# What is refused.
expect 2 "$KOMPAKT" bench --ops --filter 'linaer'
stderr_has 'leaves no case.*the ops are embed, rms_norm, linear'
expect 2 "$KOMPAKT" bench --ops -t 1,many
stderr_has '-t.*many'
expect 2 "$KOMPAKT" bench --ops -t -1
expect 2 "$KOMPAKT" bench --ops -r 0
stderr_has '-r'
KOMPAKT_ISA=nosuch expect 2 "$KOMPAKT" bench --ops --filter 'add v2-lite'
stderr_has 'nosuch'
