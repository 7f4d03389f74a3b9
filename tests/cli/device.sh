# Devices: what cannot be had is refused with exit 5 or, where nobody asked for it, left alone; the simulator runs all of
# the way.
TINY=$DATA/checkpoints/tiny-v3
expect 0 "$KOMPAKT" convert "$TINY" q4.kpk
run() { "$KOMPAKT" run q4.kpk -p "Once" -n 2 --json "$@"; }

# No device: not in this build, or no driver, or no GPU. Each says which.
if ! [[ -e /dev/nvidia0 ]]; then
  expect 5 run --device cuda
  stderr_has '^error: --device cuda: .*(built without CUDA|no NVIDIA driver|no CUDA-capable device)'
  expect 5 run --device cuda:3
  expect 0 run --device auto
  stderr_empty
fi
expect 0 run --device cpu
cp .stdout cpu.json
expect 0 run --device auto -ngl 0
expect 2 run --device gpu
stderr_has 'unknown device "gpu"'
expect 2 run --device cud
stderr_has 'did you mean "cuda"'
expect 2 run --device cpu --gpu-memory 1GiB
stderr_has '--gpu-memory'
expect 2 run --device cpu -ngl 3
expect 2 run --device cuda-sim -ngl -2
stderr_has '-ngl'
expect 2 run --device cuda-sim --gpu-memory many
stderr_has 'many'

# Too little memory; more than there is.
expect 5 run --device cuda-sim --gpu-memory 1MiB
stderr_has 'device memory: 1048576 bytes may be used, .* need [0-9]+'
expect 5 run --device cuda-sim --gpu-memory 900GiB
stderr_has '--gpu-memory: [0-9]+ bytes are asked for'

# The simulator, all of the model and its last layer.
expect 0 run --device cuda-sim -v
stderr_has 'device: layers 0-'
check "the same tokens on the simulator" "$PYTHON" -c \
  'import json; assert json.load(open("cpu.json"))["ids"] == json.load(open(".stdout"))["ids"]'
expect 0 run --device cuda-sim -ngl 1 -v
stderr_has 'device: layers [1-9][0-9]*-'
check "and with one layer there" "$PYTHON" -c \
  'import json; assert json.load(open("cpu.json"))["ids"] == json.load(open(".stdout"))["ids"]'

# An indexer selects 16 rows: up to so many tokens, and beyond.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/v32" v32.kpk --recipe lossless
ids=$(seq -s, 1 20)
expect 0 "$KOMPAKT" trace v32.kpk --ids "$ids" -o trace.safetensors --device cuda-sim
expect 0 "$KOMPAKT" trace v32.kpk --ids 1,2,3 -o trace.safetensors --device cuda-sim
