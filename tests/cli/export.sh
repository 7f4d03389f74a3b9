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
for model in v2lite v2 v3 moonlight glmflash kimi tiny-v3; do
  expect 0 "$KOMPAKT" convert "$checkpoints/$model" "$model.kpk" --recipe lossless
  expect 0 "$KOMPAKT" export "$model.kpk" "$model-source" --to safetensors --dtype source
  expect 0 "$PYTHON" "$compare" "$model-source" "$checkpoints/$model" --subset
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
