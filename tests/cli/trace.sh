# trace writes what the independent implementation computed: at once, token by token, and in chunks of 7.
for model in v2lite v2 v3 v32 glm5 moonlight glmflash kimi; do
  golden=$DATA/checkpoints/$model/golden.safetensors
  expect 0 "$KOMPAKT" convert "$DATA/checkpoints/$model" $model.kpk --recipe lossless
  "$PYTHON" - "$golden" >ids-$model.txt <<'TEXT'
import json, struct, sys
raw = open(sys.argv[1], "rb").read()
(n,) = struct.unpack_from("<Q", raw)
begin, end = json.loads(raw[8 : 8 + n])["ids"]["data_offsets"]
print(",".join(map(str, struct.unpack(f"<{(end - begin) // 8}q", raw[8 + n + begin : 8 + n + end]))))
TEXT
  expect 0 "$KOMPAKT" trace $model.kpk --ids @ids-$model.txt -o whole.safetensors
  expect 0 "$PYTHON" "$CLI/compare_trace.py" whole.safetensors "$golden"
  for chunk in 1 7; do
    expect 0 "$KOMPAKT" trace $model.kpk --ids "$(<ids-$model.txt)" -o chunks.safetensors --chunk $chunk
    expect 0 "$PYTHON" "$CLI/compare_trace.py" chunks.safetensors "$golden"
  done
  # The checkpoint itself, without packing it.
  expect 0 "$KOMPAKT" trace "$DATA/checkpoints/$model" --ids @ids-$model.txt -o unpacked.safetensors
  expect 0 "$PYTHON" "$CLI/compare_trace.py" unpacked.safetensors "$golden"
done

expect 0 "$KOMPAKT" trace v3.kpk --ids 0,17,5 -o three.safetensors --json
stdout_has '"tokens": *3'
expect 2 "$KOMPAKT" trace v3.kpk --ids 0,320 -o out.safetensors
stderr_has '320'
expect 2 "$KOMPAKT" trace v3.kpk --ids '' -o out.safetensors
expect 2 "$KOMPAKT" trace v3.kpk --ids 0,-5 -o out.safetensors
expect 4 "$KOMPAKT" trace v3.kpk --ids @absent -o out.safetensors
expect 4 "$KOMPAKT" trace v3.kpk --ids 0,17 -o no/such/out.safetensors
check "a failed trace writes nothing" test ! -e out.safetensors

# The MTP layer, kept in the packed file or read from the checkpoint.
for model in v3 glm5; do
  golden=$DATA/checkpoints/$model/golden_mtp.safetensors
  expect 0 "$KOMPAKT" convert "$DATA/checkpoints/$model" $model-mtp.kpk --recipe lossless --keep-mtp
  expect 0 "$KOMPAKT" verify $model-mtp.kpk --source "$DATA/checkpoints/$model" --samples 0
  for from in $model-mtp.kpk "$DATA/checkpoints/$model"; do
    expect 0 "$KOMPAKT" trace "$from" --ids @ids-$model.txt --mtp -o mtp.safetensors
    expect 0 "$PYTHON" "$CLI/compare_trace.py" mtp.safetensors "$golden"
  done
  expect 0 "$KOMPAKT" inspect $model-mtp.kpk
  stdout_has '^mtp\.eh_proj '
  stdout_has 'with 1 MTP layer'
  # The main model is the same.
  expect 0 "$KOMPAKT" trace $model-mtp.kpk --ids @ids-$model.txt -o whole.safetensors
  expect 0 "$PYTHON" "$CLI/compare_trace.py" whole.safetensors "$DATA/checkpoints/$model/golden.safetensors"
done
expect 3 "$KOMPAKT" trace v3.kpk --ids 0,17,5 --mtp -o none.safetensors
stderr_has 'v3.kpk.*MTP'
expect 3 "$KOMPAKT" convert "$DATA/checkpoints/v2lite" none.kpk --keep-mtp
stderr_has 'num_nextn_predict_layers'
expect 0 "$KOMPAKT" plan "$DATA/checkpoints/v3" --keep-mtp
stdout_has '^mtp\.mlp\.experts\.down_proj .* q8_g32 '
