# export: packed files and upstream forms as Hugging Face folders.
sources=$DATA/sources
checkpoints=$DATA/checkpoints
compare=$CLI/compare_tensors.py

# Every golden, through the command line.
for config in "$sources"/*.config.json; do
  name=$(basename "$config" .config.json)
  expect 0 "$KOMPAKT" export "$sources/$name.safetensors" "out-$name" --loose --config "$config" --to safetensors --dtype f32
  expect 0 "$PYTHON" "$compare" "out-$name/model.safetensors" "$sources/$name.expected.safetensors" --values
done

# Lossless and back: names, dtypes, shapes and bytes of every tensor.
for model in v2lite v2 v3 v32 glm5 moonlight glmflash kimi tiny-v3; do
  expect 0 "$KOMPAKT" convert "$checkpoints/$model" "$model.kpk" --recipe lossless
  expect 0 "$KOMPAKT" export "$model.kpk" "$model-source" --to safetensors --dtype source
  expect 0 "$PYTHON" "$compare" "$model-source" "$checkpoints/$model" --subset
done


# Experts that lie fused in one tensor are written back so.
mkdir fused
cp "$checkpoints/v2lite/config.json" fused
"$PYTHON" - "$CLI" "$checkpoints/v2lite" <<'TEXT'
import json, struct, sys
sys.path.insert(0, sys.argv[1])
from compare_tensors import tensors
plain = tensors(sys.argv[2])
out = {n: t for n, t in plain.items() if ".mlp.experts." not in n}
layers = sorted({n.split(".mlp.experts.")[0] for n in plain if ".mlp.experts." in n})
for layer in layers:
    stem = layer + ".mlp.experts."
    experts = len([n for n in plain if n.startswith(stem) and n.endswith(".gate_proj.weight")])
    for name, kinds in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        parts = [plain[f"{stem}{e}.{kind}.weight"] for e in range(experts) for kind in kinds]
        rows, cols = parts[0][1]
        out[stem + name] = (parts[0][0], [experts, rows * len(kinds), cols], b"".join(p[2] for p in parts))
header, at = {}, 0
for name, (dtype, shape, data) in out.items():
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
text = json.dumps(header).encode()
with open("fused/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in out.values()))
TEXT
expect 0 "$KOMPAKT" convert fused fused.kpk --recipe lossless
expect 0 "$KOMPAKT" verify fused.kpk --source fused
expect 0 "$KOMPAKT" export fused.kpk fused-source --dtype source --ram 1MiB
expect 0 "$PYTHON" "$compare" fused-source fused
expect 0 "$KOMPAKT" export fused.kpk fused-bf16
expect 0 "$PYTHON" "$compare" fused-bf16 "$checkpoints/v2lite" --subset

# GPTQ and AWQ, where int4_g32 holds them.
expect 0 "$KOMPAKT" export "$checkpoints/tiny-v3" tiny-f32 --dtype f32
for kind in gptq gptq_v2 gptq_index awq; do
  expect 0 "$PYTHON" "$CLI/make_int4_checkpoint.py" $kind tiny-f32 tiny-$kind
  expect 0 "$KOMPAKT" convert tiny-$kind tiny-$kind.kpk --recipe lossless
  expect 0 "$KOMPAKT" plan tiny-$kind --recipe lossless
  stdout_has 'int4_g32 .*exact'
  expect 0 "$KOMPAKT" export tiny-$kind.kpk tiny-$kind-source --dtype source
  expect 0 "$PYTHON" "$compare" tiny-$kind-source tiny-$kind
done

# A quantized file gives its values, not its source.
expect 0 "$KOMPAKT" convert "$checkpoints/tiny-v3" q4.kpk --recipe q4
expect 3 "$KOMPAKT" export q4.kpk q4-source --dtype source
stderr_has 'made from BF16.*--dtype bf16'
expect 0 "$KOMPAKT" export q4.kpk q4-bf16 --json
stdout_has '"dtype": "bf16"'
stdout_has 'tokenizer.json'

# The cast of an upstream folder is a model of its own.
expect 0 "$KOMPAKT" export "$checkpoints/tiny-v3" tiny-bf16 --ram 8MiB -t 2
expect 0 grep -q '"torch_dtype": "bfloat16"' tiny-bf16/config.json
expect 1 grep -q quantization_config tiny-bf16/config.json
expect 0 "$KOMPAKT" plan tiny-bf16

# Nothing is overwritten, and nothing half-made stays.
expect 2 "$KOMPAKT" export q4.kpk q4-bf16
stderr_has 'exists.*--force'
expect 0 "$KOMPAKT" export q4.kpk q4-bf16 --force
mkdir -p keep/inner
expect 2 "$KOMPAKT" export q4.kpk keep --force
expect 2 "$KOMPAKT" export q4.kpk other --dtype int4
expect 2 "$KOMPAKT" export q4.kpk other --to gguf
expect 2 "$KOMPAKT" export "$checkpoints/tiny-v3" other --dtype source
expect 4 "$KOMPAKT" export none.kpk other
expect 1 test -e other
expect 1 test -e other.partial
