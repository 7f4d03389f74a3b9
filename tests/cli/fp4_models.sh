# Whole models in MXFP4 and NVFP4: kept bit for bit, and they compute what their values in F32 compute.
head -c 4000 "$DATA/text/eval.txt" >text.txt
for model in tiny-v3 moonlight; do
  expect 0 "$KOMPAKT" export "$DATA/checkpoints/$model" "$model-f32" --dtype f32
  for kind in mxfp4 nvfp4 nvfp4-modelopt; do
    name=$model-$kind
    expect 0 "$PYTHON" "$CLI/make_fp4_checkpoint.py" $kind "$model-f32" "$name" "$name-twin"
    expect 0 "$KOMPAKT" convert "$name" "$name.kpk" --recipe lossless
    expect 0 "$KOMPAKT" verify "$name.kpk" --source "$name" --samples 0
    expect 0 "$KOMPAKT" inspect "$name.kpk"
    stdout_has "${kind%-modelopt}"
    # q4 keeps what is low-bit upstream; the rest it quantizes.
    expect 0 "$KOMPAKT" plan "$name" --recipe q4
    stdout_has "experts\.gate_proj .* ${kind%-modelopt} .*exact"
    expect 0 "$KOMPAKT" export "$name.kpk" "$name-source" --dtype source
    expect 0 "$PYTHON" "$CLI/compare_tensors.py" "$name-source" "$name"
    for set in "" reference; do
      for ids in 3,17,5,99,42,7,0,250,31,8; do
        expect 0 env KOMPAKT_ISA=$set "$KOMPAKT" trace "$name.kpk" --ids $ids -o fp4.safetensors
        expect 0 env KOMPAKT_ISA=$set "$KOMPAKT" trace "$name-twin" --ids $ids -o twin.safetensors
        expect 0 "$PYTHON" "$CLI/compare_trace.py" fp4.safetensors twin.safetensors
      done
    done
  done
done
# A text's perplexity is that of the twin.
for kind in mxfp4 nvfp4; do
  for file in tiny-v3-$kind.kpk tiny-v3-$kind-twin; do
    expect 0 "$KOMPAKT" perplexity $file -f text.txt -c 128 --act f32 --json
    cp .stdout $(basename $file .kpk).json
  done
  check "$kind: the same perplexity" "$PYTHON" - tiny-v3-$kind.json tiny-v3-$kind-twin.json <<'TEXT'
import json, sys
a, b = (json.load(open(p))["perplexity"] for p in sys.argv[1:])
# Each format has products of its own: sums of F32 in another order.
assert abs(a / b - 1) < 1e-6 and 50 < a < 80, (a, b)
TEXT
done
