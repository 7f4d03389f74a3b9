# plan: what a conversion makes, to the byte; what the destination lacks; what fits a budget.
TINY=$DATA/checkpoints/tiny-v3
json() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); print($1)"; }

expect 0 "$KOMPAKT" plan "$TINY" "$WORK/out.kpk"
stdout_has '^free disk +ok'
stdout_has '^time +'
check "nothing was written" test ! -e "$WORK/out.kpk" -a ! -e "$WORK/out.kpk.partial" -a ! -e "$WORK/out.kpk.probe"
expect 0 "$KOMPAKT" plan "$TINY" --json
planned=$(json 'd["file_bytes"]')
expect 0 "$KOMPAKT" convert "$TINY" q4.kpk
check "plan is exact to the byte" test "$(stat -c %s q4.kpk)" -eq "$planned"

# A folder that does not exist, one that may not be written to, a file that is too large.
expect 4 "$KOMPAKT" plan "$TINY" "$WORK/absent/out.kpk"
stderr_has 'absent'
if [[ $(id -u) != 0 ]]; then
  mkdir -m 555 shut
  expect 4 "$KOMPAKT" plan "$TINY" shut/out.kpk
  stderr_has 'shut'
fi
expect 4 bash -c "ulimit -f 1000; exec '$KOMPAKT' plan '$TINY' out.kpk"
stderr_has 'volume-size'

# The KV cache: rank 128 and 32 rotary values in 4 layers, by the token.
for kv in f32:2560 bf16:1280 int8:800; do
  expect 0 "$KOMPAKT" plan "$TINY" --kv ${kv%:*} -c 1000 --json
  check "bytes per token as ${kv%:*}" test "$(json 'd["kv_format"], d["kv_bytes_per_token"]')" = "${kv/:/ }"
  expect 0 "$KOMPAKT" plan "$TINY" --fit 44MB --kv ${kv%:*} -c 1000 --json
  check "--fit counts it" test "$(json 'd["fit"]["cache_bytes"]')" = "${kv#*:}000"
done
expect 0 "$KOMPAKT" plan "$TINY" -c 1000
stdout_has '^KV cache +1.28 MB for 1,000 tokens as bf16, 1,280 bytes per token$'

# A budget: the file that convert makes stays within it, and the plan says so beforehand.
for budget in 36MiB 40MiB 44MB; do
  expect 0 "$KOMPAKT" plan "$TINY" --fit $budget -c 1024 --json
  stdout_has '"chosen"'
  planned=$(json 'd["fit"]["file_bytes"]')
  check "the parts of $budget add up" "$PYTHON" -c \
    'import json; f=json.load(open(".stdout"))["fit"]; assert f["file_bytes"]+f["cache_bytes"]+f["working_bytes"] <= f["budget_bytes"]'
  expect 0 "$KOMPAKT" convert "$TINY" fit.kpk --fit $budget -c 1024 --force
  check "the file for $budget is as planned" test "$(stat -c %s fit.kpk)" -eq "$planned"
done
expect 4 "$KOMPAKT" plan "$TINY" --fit 1MB
stderr_has 'expected a budget of at least [0-9]+ bytes, found 1000000'
expect 2 "$KOMPAKT" plan "$TINY" --fit 8XB
stderr_has '8XB'
expect 2 "$KOMPAKT" plan "$TINY" --fit 8GiB --recipe q8
