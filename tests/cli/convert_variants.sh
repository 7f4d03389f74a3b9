# Every architecture of the test data converts with every recipe, verifies, and gives the same bytes on 1 and 2 threads.
for model in v2lite v2 v3 moonlight glmflash kimi; do
  for recipe in lossless q8 q6 q5 q4 q3 q2; do
    expect 0 "$KOMPAKT" convert "$DATA/checkpoints/$model" "$model-$recipe.kpk" --recipe "$recipe" -t 1
    stdout_has "$model-$recipe\.kpk"
    expect 0 "$KOMPAKT" convert "$DATA/checkpoints/$model" two.kpk --recipe "$recipe" -t 2
    same_bytes "$model-$recipe.kpk" two.kpk
    rm two.kpk
    expect 0 "$KOMPAKT" verify "$model-$recipe.kpk" --source "$DATA/checkpoints/$model"
    check "nothing but the file is left" test "$(echo "$model-$recipe.kpk"*)" = "$model-$recipe.kpk"
  done
  # kimi's experts have 4 bits upstream; every recipe keeps them.
  [[ $model == kimi ]] ||
    check "$model: q4 is smaller than q8" test "$(stat -c %s "$model-q4.kpk")" -lt "$(stat -c %s "$model-q8.kpk")"
done
