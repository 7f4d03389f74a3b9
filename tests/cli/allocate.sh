# --size and --bpw: formats for an amount of tensor data, and the recipe that repeats them.
TINY=$DATA/checkpoints/tiny-v3
number() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); assert $1, d"; }

expect 0 "$KOMPAKT" plan "$TINY" --size 8275136 --json
check "the budget holds to the byte" number '0.99 * 8275136 < d["tensor_bytes"] <= 8275136 == d["allocation"]["budget_bytes"]'
expect 0 "$KOMPAKT" plan "$TINY" --size 8275136
stdout_has '^budget +8,275,136 bytes of tensors, 8,2'
expect 0 "$KOMPAKT" plan "$TINY" --bpw 5.5 --json
check "bits per weight count every parameter" number '5.4 < d["bits_per_weight"] <= 5.5'

expect 0 "$KOMPAKT" convert "$TINY" a.kpk --size 8275136 --write-recipe a.recipe
expect 0 "$KOMPAKT" convert "$TINY" b.kpk --recipe a.recipe
same_bytes a.kpk b.kpk
check "every line has a reason" "$PYTHON" -c "assert all('  # ' in line for line in open('a.recipe'))"
expect 0 "$KOMPAKT" verify a.kpk --source "$TINY"

for name in "$DATA"/checkpoints/*/; do
  expect 0 "$KOMPAKT" plan "$name" --bpw 13 --json
  check "$name stays within 13 bits" number 'd["bits_per_weight"] <= 13'
done

expect 4 "$KOMPAKT" plan "$TINY" --size 100kB
stderr_has 'size: expected a budget of at least [0-9]+ bytes of tensors'
expect 2 "$KOMPAKT" plan "$TINY" --bpw 0
expect 2 "$KOMPAKT" plan "$TINY" --bpw nan
expect 2 "$KOMPAKT" plan "$TINY" --size 8MB --bpw 4.5
expect 2 "$KOMPAKT" plan "$TINY" --size 8MB --recipe q4
expect 2 "$KOMPAKT" plan "$TINY" --size 8MB --fit 8MB
