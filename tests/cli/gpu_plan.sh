# plan --gpu: what goes to a GPU with so much memory, or to a card, and which rate the bytes of a token allow there. A packed
# file is taken as it is, a checkpoint by its recipe.
TINY=$DATA/checkpoints/tiny-v3
json() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); print($1)"; }
expect 0 "$KOMPAKT" convert "$TINY" q4.kpk
expect 0 "$KOMPAKT" plan q4.kpk --gpu 24GiB
stdout_has '^device +layers 0-[0-9]+ and the head, routed experts of ([0-9]+) of \1 layers$'
stdout_has 'RTX 4090 +[0-9]+ tokens/s'
stdout_has 'nothing was measured'
expect 0 "$KOMPAKT" plan q4.kpk --gpu 24GiB --json
whole=$(json 'd["weight_bytes"]')
expect 0 "$KOMPAKT" plan "$TINY" --gpu 24GiB --json
check "the recipe q4 gives the bytes of the file" test "$(json 'd["weight_bytes"]')" -eq "$whole"
expect 0 "$KOMPAKT" plan q4.kpk --gpu "RTX 5090" -ngl 2 --json
check "-ngl 2 leaves the others on the host" test "$(json 'sum(l["layer"] == "device" for l in d["layers"])')" -eq 2
expect 0 "$KOMPAKT" plan q4.kpk --gpu 1TiB
stdout_has 'no card of the table'
expect 0 "$KOMPAKT" plan q4.kpk --gpu 1TiB --gpu-bandwidth 1000GB --host-bandwidth 50GB
stdout_has 'memory 1000 GB/s, host 50'
expect 5 "$KOMPAKT" plan q4.kpk --gpu 1MiB
stderr_has 'need [0-9]+'
expect 2 "$KOMPAKT" plan q4.kpk --gpu RTX9090
stderr_has 'known are 3060, 3090'

# Less memory, less of the model there: experts first.
expect 0 "$KOMPAKT" plan "$TINY" --recipe lossless --gpu 1TiB -c 64 --json
all=$(json 'd["total_bytes"]')
expect 0 "$KOMPAKT" plan "$TINY" --recipe lossless --gpu $((all - 1)) -c 64 --json
check "attention of every layer, not all experts" "$PYTHON" -c "
import json
d = json.load(open('.stdout'))
assert all(layer['layer'] == 'device' for layer in d['layers']), d
assert any(layer.get('experts') == 'host' for layer in d['layers']), d
assert d['total_bytes'] <= d['budget_bytes'] == $all - 1, d"
