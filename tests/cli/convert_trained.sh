# The trained checkpoint: recipes, overrides, repetition, replacement, dry run, a packed file as source.
source=$DATA/checkpoints/tiny-v3

expect 0 "$KOMPAKT" convert "$source" q4.kpk
stdout_has 'q4_g32'
expect 0 "$KOMPAKT" convert "$source" one.kpk --recipe q4 -t 1
same_bytes q4.kpk one.kpk
expect 0 "$KOMPAKT" convert "$source" many.kpk --recipe q4 -t 7
same_bytes q4.kpk many.kpk

# The file's name is not in its bytes, nor is the folder's path.
mkdir elsewhere
cp -r "$source" elsewhere/copy
expect 0 "$KOMPAKT" convert elsewhere/copy/ elsewhere/other-name.kpk
same_bytes q4.kpk elsewhere/other-name.kpk

# Again: the destination is what it should be, and stays.
expect 0 "$KOMPAKT" convert "$source" q4.kpk
stdout_has 'already'
same_bytes q4.kpk one.kpk
# Made from something else: in the way, unless forced.
expect 2 "$KOMPAKT" convert "$source" q4.kpk --recipe q8
stderr_has 'q4\.kpk'
same_bytes q4.kpk one.kpk
expect 0 "$KOMPAKT" convert "$source" many.kpk --recipe q8 --force
expect 0 "$KOMPAKT" inspect many.kpk
stdout_lacks 'q4_g'

# An override, and the same as a recipe file: the same formats.
expect 0 "$KOMPAKT" convert "$source" override.kpk --tensor 'mlp.experts.down_proj=q8_g32' --json
stdout_has '"file_bytes"'
expect 0 "$KOMPAKT" inspect override.kpk
stdout_has 'mlp\.experts\.down_proj.*q8_g32'
stdout_has 'mlp\.experts\.up_proj.*q4_g32'
cat >mine.recipe <<'TEXT'
# the experts at 4 bits, the rest as it is
*            = source
mlp.experts.* = q4_g32  # most of the weights
TEXT
expect 0 "$KOMPAKT" convert "$source" mine.kpk --recipe mine.recipe
expect 0 "$KOMPAKT" inspect mine.kpk
stdout_has 'mlp\.experts\.up_proj.*q4_g32'
stdout_has 'self_attn\.o_proj.*fp8_b128'
echo 'mlp.experts.* == q4' >broken.recipe
expect 2 "$KOMPAKT" convert "$source" broken.kpk --recipe broken.recipe
stderr_has 'broken\.recipe.*1'

# plan and --dry-run read headers, write nothing, and know the size.
expect 0 "$KOMPAKT" plan "$source" --json
planned=$("$PYTHON" -c 'import json; print(json.load(open(".stdout"))["file_bytes"])')
actual=$(stat -c %s q4.kpk)
check "plan said $planned bytes, the file has $actual" test "$planned" -ge "$actual" -a "$planned" -le $((actual + 65536))
expect 0 "$KOMPAKT" convert "$source" dry.kpk --dry-run
stdout_has 'q4_g16'
check "a dry run writes nothing" test "$(echo dry.kpk*)" = 'dry.kpk*'

# A lossless packed file is as good a source as the checkpoint.
expect 0 "$KOMPAKT" convert "$source" lossless.kpk --recipe lossless
expect 0 "$KOMPAKT" convert lossless.kpk from-kpk.kpk --recipe q4
expect 0 "$KOMPAKT" verify from-kpk.kpk --source lossless.kpk --samples 0
stdout_has 'every byte equal'
