# What is usable but suspicious is a warning, and with --strict an error that names it.
cp -r "$DATA/checkpoints/v2lite" odd
chmod -R u+w odd
"$PYTHON" - <<'TEXT'
import json
config = json.load(open("odd/config.json"))
config["attn_temperature"] = 3
json.dump(config, open("odd/config.json", "w"))
TEXT
expect 0 "$KOMPAKT" plan odd
stderr_has '^warning: config.json: keys that this program does not know are ignored: attn_temperature$'
expect 3 "$KOMPAKT" plan odd --strict
stderr_has '^error: --strict: 1 warning: .*attn_temperature'
stdout_empty
expect 3 "$KOMPAKT" convert odd odd.kpk --strict
stderr_has 'attn_temperature'
check "nothing was written" test ! -e odd.kpk -a ! -e odd.kpk.partial
expect 0 "$KOMPAKT" convert odd odd.kpk --recipe q8
stderr_has '^warning: .*attn_temperature'
expect 0 "$KOMPAKT" inspect odd.kpk
stdout_has 'attn_temperature'

# The bundled checkpoints have nothing to warn about.
for model in v2lite v2 v3 v32 glm5 moonlight glmflash kimi tiny-v3; do
  expect 0 "$KOMPAKT" plan "$DATA/checkpoints/$model" --strict
  stderr_lacks 'warning'
done

# A tokenizer that cannot be used leaves token ids.
cp -r "$DATA/checkpoints/v2lite" ids
chmod -R u+w ids
printf '{"model":{"type":"WordPiece","vocab":{"a":0,"b":1}},"added_tokens":[]}' >ids/tokenizer.json
expect 0 "$KOMPAKT" plan ids
stderr_has '^warning: the packed file will take token ids only'
expect 3 "$KOMPAKT" plan ids --strict
stderr_has 'WordPiece'

# Control characters of a name reach neither the terminal nor a message as they are.
name=$'odd/model-\x1b[31m\nerror: all is well.safetensors'
cp "$DATA/checkpoints/v2lite/model.safetensors" "$name" 2>/dev/null ||
  cp "$(ls "$DATA"/checkpoints/v2lite/model*.safetensors | head -n 1)" "$name"
rm -f odd/model.safetensors odd/model-0*.safetensors
printf '{"metadata":{},"weight_map":{"a\\u001b[2Jb":"model-\\u001b[31m\\nerror: all is well.safetensors"}}' \
  >odd/model.safetensors.index.json
expect 3 "$KOMPAKT" plan odd
stderr_has '\\u001b\['
check "no escape reached stderr" bash -c '! grep -q $'"'"'\x1b'"'"' .stderr'
check "no line of its own" bash -c '! grep -q "^error: all is well" .stderr'
