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

# export: the same warnings, the same --strict.
cp -r "$DATA/checkpoints/v2lite" odd_export
chmod -R u+w odd_export
"$PYTHON" - <<'TEXT'
import json
config = json.load(open("odd_export/config.json"))
config["attn_temperature"] = 3
json.dump(config, open("odd_export/config.json", "w"))
TEXT
expect 3 "$KOMPAKT" export odd_export out --strict
stderr_has '^error: --strict: 1 warning: .*attn_temperature'
check "nothing was written" test ! -e out -a ! -e out.partial
expect 0 "$KOMPAKT" export odd_export out
stderr_has '^warning: .*attn_temperature'
rm -r out
expect 3 "$KOMPAKT" export odd.kpk out --strict
stderr_has 'attn_temperature'

# Names that are not UTF-8: JSON has replacement characters in their place, and it is no bug of ours.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/v2lite" $'n\xffame.kpk' --json
stdout_has 'n.*ame\.kpk'
for verb in inspect verify; do
  expect 0 "$KOMPAKT" "$verb" $'n\xffame.kpk' --json
done
cp -r "$DATA/checkpoints/v2lite" $'s\xffource'
expect 0 "$KOMPAKT" plan $'s\xffource' --json
expect 0 "$KOMPAKT" export $'s\xffource' $'o\xffut' --json
chmod -R u+w $'s\xffource'
mv $'s\xffource/model.safetensors' $'s\xffource/mo\xfedel.safetensors'
"$KOMPAKT" convert $'s\xffource' shard.kpk --json >.stdout 2>.stderr && code=0 || code=$?
check "a shard's name that is not UTF-8 is an answer, not a bug (found exit code $code)" test "$code" -ne 70
printf '{"architectures":["Deep\xffseekV2ForCausalLM"]}' >$'s\xffource/config.json'
expect 3 "$KOMPAKT" plan $'s\xffource' --json
