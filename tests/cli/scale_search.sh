# --scale-search is part of the recipe: the file says it, and its recipe makes the same bytes again.
source="$DATA/checkpoints/v3"
for effort in fast default best; do
  expect 0 "$KOMPAKT" convert "$source" "$effort.kpk" --scale-search "$effort"
  expect 0 "$KOMPAKT" verify "$effort.kpk" --source "$source"
done
check "fast and default differ" test "$(sha256sum <fast.kpk)" != "$(sha256sum <default.kpk)"
check "default and best differ" test "$(sha256sum <default.kpk)" != "$(sha256sum <best.kpk)"
expect 0 "$KOMPAKT" convert "$source" none.kpk
same_bytes default.kpk none.kpk

expect 0 "$KOMPAKT" plan "$source" --scale-search fast
stdout_has '^search +fast'
expect 0 "$KOMPAKT" plan "$source" --json
stdout_has '"scale_search": "default"'

printf '[scale-search fast]\n* = source\nself_attn.o_proj = q4_g32\n' >mine.recipe
expect 0 "$KOMPAKT" convert "$source" mine.kpk --recipe mine.recipe
expect 0 "$KOMPAKT" verify mine.kpk --source "$source"
expect 0 "$KOMPAKT" convert "$source" other.kpk --recipe mine.recipe --scale-search best
check "the flag has the last word" test "$(sha256sum <mine.kpk)" != "$(sha256sum <other.kpk)"
# The same destination with another search is another conversion.
expect 2 "$KOMPAKT" convert "$source" fast.kpk --scale-search best
stderr_has 'recipe'

expect 2 "$KOMPAKT" convert "$source" x.kpk --scale-search quick
stderr_has '--scale-search: unknown scale search "quick"'
expect 2 "$KOMPAKT" plan "$source" --scale-search defualt
stderr_has 'did you mean "default"'
