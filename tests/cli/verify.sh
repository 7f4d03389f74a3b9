# verify: 0 intact, 1 damaged with every damaged extent named, 3 not a packed file.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/v3" good.kpk
expect 0 "$KOMPAKT" verify good.kpk
stdout_has 'intact'
expect 0 "$KOMPAKT" verify good.kpk --json
check "--json prints one object" "$PYTHON" -c 'import json; assert json.load(open(".stdout"))["intact"] is True'
expect 0 "$KOMPAKT" verify good.kpk --source "$DATA/checkpoints/v3"

# offset_of TENSOR: where its bytes start.
offset_of() {
  "$KOMPAKT" inspect good.kpk --tensor "$1" --json >offset.json
  "$PYTHON" -c 'import json; print(json.load(open("offset.json"))["offset"])'
}
# flip FILE OFFSET: one bit.
flip() { "$PYTHON" -c 'import sys; f=open(sys.argv[1],"r+b"); f.seek(int(sys.argv[2])); b=f.read(1)[0]; f.seek(-1,1); f.write(bytes([b^16]))' "$@"; }

cp good.kpk bad.kpk
flip bad.kpk "$(offset_of model.layers.1.self_attn.o_proj.weight)"
expect 1 "$KOMPAKT" verify bad.kpk
stdout_has 'layers\.1\.self_attn\.o_proj'
expect 1 "$KOMPAKT" verify bad.kpk --json
stdout_has '"intact": *false'

# Three places at once: all three are named, nothing else.
flip bad.kpk $(($(offset_of model.layers.2.mlp.experts.5.up_proj.weight) + 100))
flip bad.kpk "$(offset_of model.norm.weight)"
expect 1 "$KOMPAKT" verify bad.kpk
stdout_has 'layers\.1\.self_attn\.o_proj'
stdout_has 'layer 2 expert 5|layers\.2\..*experts\.5'
stdout_has 'model\.norm|"norm"|[ :]norm'
check "three damaged places, three lines" test "$(grep -c -i 'xxh3' .stdout)" -eq 3

# The frame: header, manifest, footer; a cut file.
size=$(stat -c %s good.kpk)
for offset in 4 $((size - 10)) $((size - 70)); do
  cp good.kpk bad.kpk
  flip bad.kpk "$offset"
  expect_one_of() { "$KOMPAKT" verify bad.kpk >.stdout 2>.stderr && return 1 || [[ $? == 1 || $? == 3 ]]; }
  check "bit flip at $offset of $size is seen" expect_one_of
done
head -c $((size / 2)) good.kpk >cut.kpk
expect 1 "$KOMPAKT" verify cut.kpk
expect 3 "$KOMPAKT" run cut.kpk -p Hello
expect 3 "$KOMPAKT" inspect cut.kpk

# Not ours at all.
head -c 10000 "$DATA/text/eval.txt" >text.kpk
expect 3 "$KOMPAKT" verify text.kpk
stderr_has 'text\.kpk'
: >empty.kpk
expect 3 "$KOMPAKT" verify empty.kpk
expect 3 "$KOMPAKT" verify "$DATA/checkpoints/v3/model-00001-of-000002.safetensors"
expect 4 "$KOMPAKT" verify absent.kpk
stderr_has 'absent\.kpk'

# Made from another checkpoint than the one given.
expect 3 "$KOMPAKT" verify good.kpk --source "$DATA/checkpoints/moonlight"
stderr_has 'another model'
"$PYTHON" "$CLI/make_bad_checkpoint.py" none "$DATA/checkpoints" copy
flip copy/model-00002-of-000002.safetensors $(($(stat -c %s copy/model-00002-of-000002.safetensors) - 5000000))
expect 1 "$KOMPAKT" verify good.kpk --source copy --samples 0
