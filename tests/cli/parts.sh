# --part I/N and mpirun: processes that write one file together give the bytes of one process; what is missing is told;
# a part that is lost is made up for.
TINY=$DATA/checkpoints/tiny-v3
convert() { "$KOMPAKT" convert "$TINY" "$@"; }
journals() { ls | grep -c 'journal'; }
expect 0 convert whole.kpk

for wrong in 0/3 4/3 3 a/b 1/0 -1/2 1/2/3 1/100000; do
  expect 2 convert wrong.kpk --part "$wrong"
  stderr_has 'expected I/N'
done
expect 2 convert wrong.kpk --part 1/3 --restart
stderr_has 'other parts'
check "nothing was begun" test -z "$(ls | grep '^wrong')"

# One after another.
expect 4 "$KOMPAKT" verify three.kpk
expect 0 convert three.kpk --part 1/3
stdout_has 'part 1 of 3 of three\.kpk is done; not finished yet: 2, 3\.'
expect 1 "$KOMPAKT" verify three.kpk
stdout_has 'not complete: [0-9]+ of 105 records'
stdout_has 'of 3 parts these are not finished: 2, 3'
expect 0 convert three.kpk --part 3/3
expect 1 "$KOMPAKT" verify three.kpk --json
check "which part is missing" "$PYTHON" - <<'TEXT'
import json
state = json.load(open(".stdout"))
assert state["complete"] is False and state["splits"] == [{"parts": 3, "unfinished": [2]}], state
assert 0 < state["finished_records"] < state["records"] == 105, state
TEXT
check "no destination yet" test ! -e three.kpk
expect 0 convert three.kpk --part 3/3
stdout_has 'not finished yet: 2\.'
expect 0 convert three.kpk --part 2/3
stdout_has 'three\.kpk +[0-9,]+ bytes, written and verified'
same_bytes whole.kpk three.kpk
check "no journal is left" test "$(journals)" -eq 0
expect 0 convert three.kpk --part 1/3
stdout_has 'already complete'

# All at once, more parts than processors; one of them completes it. Volumes as well.
all_at_once() {
  local destination=$1 part pid pids=()
  shift
  for part in 1 2 3 4; do
    "$KOMPAKT" convert "$TINY" "$destination" "$@" --part $part/4 -t 1 >part$part.txt 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do expect 0 wait "$pid"; done
  check "one of them completed $destination" test "$(cat part?.txt | grep -c 'written and verified')" -eq 1
  check "no journal is left" test "$(journals)" -eq 0
}
all_at_once four.kpk
same_bytes whole.kpk four.kpk
expect 0 convert cut.kpk --volume-size 4MiB
all_at_once cut4.kpk --volume-size 4MiB
for volume in 1 2 3; do same_bytes cut-0000$volume-of-00003.kpk cut4-0000$volume-of-00003.kpk; done

# What parts have done counts, whoever goes on: another number of parts, or one process.
expect 0 convert mixed.kpk --part 1/3
expect 0 convert mixed.kpk --part 2/2
stdout_has 'not finished yet: 1\.'
expect 1 "$KOMPAKT" verify mixed.kpk
stdout_has 'of 2 parts these are not finished: 1'
expect 0 convert mixed.kpk
stdout_has 'resumed: [0-9]+ records'
same_bytes whole.kpk mixed.kpk
check "no journal is left" test "$(journals)" -eq 0

# Another recipe is not mixed in.
expect 0 convert other.kpk --part 1/2
expect 3 convert other.kpk --part 2/2 --recipe q8
stderr_has 'the recipe differs'
expect 0 convert other.kpk --part 2/2
same_bytes whole.kpk other.kpk

# A part whose bytes were damaged on the disk is found by the one that completes, and made anew.
expect 0 convert hurt.kpk --part 1/2
"$PYTHON" - <<'TEXT'
with open("hurt.kpk.partial", "r+b") as f:
    f.seek(5000)
    f.write(b"\x5a" * 64)
TEXT
expect 3 convert hurt.kpk --part 2/2
stderr_has 'does not read back'
check "no destination" test ! -e hurt.kpk
expect 0 convert hurt.kpk --part 1/2
same_bytes whole.kpk hurt.kpk

# The same part twice, or the whole beside a part.
if command -v flock >/dev/null; then
  expect 0 convert held.kpk --part 1/2
  flock held.kpk.partial.journal.1-of-2 sleep 20 &
  holder=$!
  until ! flock -n held.kpk.partial.journal.1-of-2 true; do :; done
  expect 4 convert held.kpk --part 1/2
  stderr_has 'another process'
  expect 4 convert held.kpk
  stderr_has 'another process'
  expect 0 convert held.kpk --part 2/2 -t 1
  kill "$holder"
  same_bytes whole.kpk held.kpk
else
  note "there is no flock: two processes of the same part were not tried"
fi

# mpirun does the same by rank.
if ! command -v mpirun >/dev/null || ! ldd "$KOMPAKT" | grep -q libmpi; then
  note "no mpirun, or a program built without MPI: ranks were not tried"
  return
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
ranks() {
  local count=$1
  shift
  mpirun -n "$count" "$KOMPAKT" convert "$TINY" "$@"
}
for count in 2 3 4; do
  expect 0 ranks "$count" "by $count ranks.kpk" -t 1
  stdout_has 'written and verified'
  check "one answer, not $count" test "$(grep -c 'written and verified' .stdout)" -eq 1
  same_bytes whole.kpk "by $count ranks.kpk"
done
expect 0 ranks 4 cut5.kpk --volume-size 4MiB -t 1
for volume in 1 2 3; do same_bytes cut-0000$volume-of-00003.kpk cut5-0000$volume-of-00003.kpk; done
check "no journal is left" test "$(journals)" -eq 0

# A rank that cannot write, and one that is killed: nothing is completed, and the same command goes on.
lose() {
  mpirun -n 4 bash -c 'if [[ $OMPI_COMM_WORLD_RANK == 2 ]]; then '"$1"'; fi; exec "$@"' lose "$KOMPAKT" convert "$TINY" \
    lost.kpk -t 1
}
loses() { ! lose "$1"; }
expect 0 loses 'ulimit -f 4000'
stderr_has 'lost\.kpk\.partial'
check "no destination" test ! -e lost.kpk
expect 0 loses 'kill -9 $$'
check "no destination" test ! -e lost.kpk
expect 1 "$KOMPAKT" verify lost.kpk
stdout_has 'of 4 parts these are not finished: 3'
expect 0 ranks 4 lost.kpk -t 1
same_bytes whole.kpk lost.kpk
