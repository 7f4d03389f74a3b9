# --volume-size: a set of files that is planned, written, resumed, verified and opened like one; whatever is wrong with
# one of them is named.
TINY=$DATA/checkpoints/tiny-v3
volume() { echo "$1-0000$2-of-00003.kpk"; }

expect 0 "$KOMPAKT" plan "$TINY" set.kpk --volume-size 4MiB --json
cp .stdout plan.json
expect 0 "$KOMPAKT" plan "$TINY" set.kpk --volume-size 4MiB
stdout_has '^volumes +3$'
stdout_has 'set-00001-of-00003\.kpk +[0-9,]+ bytes +model\.embed_tokens\.weight to layer [0-9]+ expert [0-9]+'
check "nothing was written" test ! -e "$(volume set 1)" -a ! -e "$(volume set 1).partial"

expect 0 "$KOMPAKT" convert "$TINY" one.kpk
expect 0 "$KOMPAKT" convert "$TINY" set.kpk --volume-size 4MiB
stdout_has 'set-00001-of-00003\.kpk to set-00003-of-00003\.kpk, 3 volumes'
check "exactly three files" test "$(ls | grep -c '^set')" -eq 3
check "sizes are as planned, and within 4 MiB" "$PYTHON" - <<'TEXT'
import json, os
volumes = json.load(open("plan.json"))["volumes"]
assert len(volumes) == 3
for v in volumes:
    assert os.path.getsize(v["file"]) == v["bytes"] <= 4 << 20, v
assert json.load(open("plan.json"))["file_bytes"] == sum(v["bytes"] for v in volumes)
TEXT
expect 0 "$KOMPAKT" convert "$TINY" set.kpk --volume-size 4MiB
stdout_has 'already complete'

# The same weights, whatever name opens them.
expect 0 "$KOMPAKT" run one.kpk -p 'Once upon a time' -n 12 --temp 0
answer=$(<.stdout)
for name in set.kpk "$(volume set 1)" "$(volume set 2)" "$(volume set 3)"; do
  expect 0 "$KOMPAKT" run "$name" -p 'Once upon a time' -n 12 --temp 0
  stdout_is "$answer"
  expect 0 "$KOMPAKT" verify "$name"
  stdout_has 'intact'
  expect 0 "$KOMPAKT" inspect "$name"
  stdout_has '^3 volumes, set id [0-9a-f]{16}$'
done
head -c 3000 "$DATA/text/eval.txt" >text.txt
expect 0 "$KOMPAKT" perplexity one.kpk -f text.txt -c 128
perplexity=$(grep -Eo 'perplexity +[0-9.]+' .stdout | head -n 1)
expect 0 "$KOMPAKT" perplexity set.kpk -f text.txt -c 128
check "the same perplexity, $perplexity" test -n "$perplexity" -a \
  "$(grep -Eo 'perplexity +[0-9.]+' .stdout | head -n 1)" == "$perplexity"
expect 0 "$KOMPAKT" trace set.kpk --ids 1,2,3 -o set.safetensors
expect 0 "$KOMPAKT" trace one.kpk --ids 1,2,3 -o one.safetensors
same_bytes set.safetensors one.safetensors
expect 0 "$KOMPAKT" tokenize set.kpk -p 'Once upon'
expect 0 "$KOMPAKT" verify set.kpk --source "$TINY"
expect 0 "$PYTHON" "$SOURCE/docs/read_kpk.py" "$(volume set 2)" --list
cp .stdout set.list
expect 0 "$PYTHON" "$SOURCE/docs/read_kpk.py" one.kpk --list
same_bytes .stdout set.list

# A set is a source as well, and may be moved and renamed together.
expect 0 "$KOMPAKT" convert "$TINY" exact.kpk --recipe lossless --volume-size 6MiB
mkdir moved
for f in exact-*.kpk; do mv "$f" "moved/other-${f#exact-}"; done
expect 0 "$KOMPAKT" convert moved/other.kpk from_set.kpk
expect 0 "$KOMPAKT" convert "$TINY" exact_one.kpk --recipe lossless
expect 0 "$KOMPAKT" convert exact_one.kpk from_one.kpk
expect 0 "$KOMPAKT" run from_set.kpk -p 'Once upon a time' -n 12 --temp 0
stdout_is "$answer"
expect 0 "$KOMPAKT" verify from_set.kpk --source moved/other.kpk --samples 0

# Everything in one volume: one file, as without the flag.
expect 0 "$KOMPAKT" convert "$TINY" fits.kpk --volume-size 1GiB
same_bytes fits.kpk one.kpk

# What cannot be.
expect 2 "$KOMPAKT" convert "$TINY" bad.kpk --volume-size 100kB
stderr_has 'volumes of at most 100000 bytes are too small for this model; expected at least [0-9]+'
least=$(grep -Eo 'at least [0-9]+' .stderr | grep -Eo '[0-9]+')
expect 0 "$KOMPAKT" plan "$TINY" bad.kpk --volume-size "$least"
expect 2 "$KOMPAKT" plan "$TINY" bad.kpk --volume-size $((least - 1))
expect 2 "$KOMPAKT" convert "$TINY" bad.kpk --volume-size 4XB
stderr_has '4XB'
expect 2 "$KOMPAKT" convert "$TINY" "$(volume bad 1)" --volume-size 4MiB
stderr_has 'expected the name of the whole, for example bad\.kpk'
check "nothing was left by refusals" test -z "$(ls | grep '^bad')"

# Names that are taken.
expect 2 "$KOMPAKT" convert "$TINY" set.kpk --volume-size 4MiB --recipe q8
stderr_has 'set-00001-of-0000.\.kpk exists and is of another set of that name|set-00001.*made from something else'
expect 2 "$KOMPAKT" convert "$TINY" one.kpk --volume-size 4MiB
stderr_has 'one\.kpk exists and would be opened in place of the volumes'
echo mine >"$(volume taken 2)"
expect 2 "$KOMPAKT" convert "$TINY" taken.kpk --volume-size 4MiB
stderr_has 'taken-00002-of-00003\.kpk exists'
check "the other file is still there" grep -q mine "$(volume taken 2)"
expect 0 "$KOMPAKT" convert "$TINY" taken.kpk --volume-size 4MiB --force
for i in 1 2 3; do same_bytes "$(volume taken $i)" "$(volume set $i)"; done

# Missing, foreign, swapped, truncated, damaged.
fresh() { rm -f broken*; for i in 1 2 3; do cp "$(volume set $i)" "$(volume broken $i)"; done; }
fresh
rm "$(volume broken 2)"
expect 4 "$KOMPAKT" run broken.kpk -p Hello
stderr_has '1 of its 3 volumes is missing: broken-00002-of-00003\.kpk \(layer [0-9]+ expert [0-9]+ to layer'
expect 4 "$KOMPAKT" verify "$(volume broken 3)"
stderr_has 'broken-00002-of-00003\.kpk'
rm "$(volume broken 1)"
expect 4 "$KOMPAKT" inspect "$(volume broken 3)"
stderr_has 'the first volume, broken-00001-of-00003\.kpk.*missing'
expect 0 "$KOMPAKT" convert "$TINY" other.kpk --volume-size 4MiB --tensor 'mlp.experts.up_proj=q4_g16'
fresh
cp other-00003-of-*.kpk "$(volume broken 3)"
expect 3 "$KOMPAKT" run broken.kpk -p Hello
stderr_has 'broken-00003-of-00003\.kpk: a volume of another set'
expect 1 "$KOMPAKT" verify broken.kpk
stdout_has 'broken-00003-of-00003\.kpk: a volume of another set'
fresh
mv "$(volume broken 2)" x
mv "$(volume broken 3)" "$(volume broken 2)"
mv x "$(volume broken 3)"
expect 3 "$KOMPAKT" run broken.kpk -p Hello
stderr_has 'broken-00002-of-00003\.kpk: holds volume 3 of its set, its name says 2'
fresh
truncate -s -100 "$(volume broken 2)"
expect 3 "$KOMPAKT" run broken.kpk -p Hello
stderr_has 'broken-00002-of-00003\.kpk: truncated'
fresh
printf 'Z' | dd of="$(volume broken 2)" bs=1 seek=100000 conv=notrunc status=none
expect 1 "$KOMPAKT" verify broken.kpk
stdout_has 'broken-00002-of-00003\.kpk: layer [0-9]+ expert [0-9]+ is damaged'
check "only that one" test "$(grep -c damaged .stdout)" -eq 1

# Killed at any moment, the same command ends with the same bytes; another size does not go on from what it finds.
# kill_at BYTES: when the journal has them.
cat >kill_at.py <<'TEXT'
import os, signal, subprocess, sys
def journal():
    try:
        return os.stat("half.kpk.partial.journal").st_size
    except FileNotFoundError:
        return 0
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
longest = 0
while process.poll() is None and longest < int(sys.argv[1]):
    longest = max(longest, journal())
process.send_signal(signal.SIGKILL)
print(longest, "killed" if process.wait() == -signal.SIGKILL else "finished")
TEXT
half=("$KOMPAKT" convert "$TINY" half.kpk --volume-size 4MiB -t 1)
longest=$("$PYTHON" kill_at.py 999999999 "${half[@]}" | grep -Eo '^[0-9]+')
rm -f half*
killed=0
for percent in 1 20 75 82 88 94 99; do
  rm -f half*
  "$PYTHON" kill_at.py $((longest * percent / 100)) "${half[@]}" >killed.txt
  if grep -q killed killed.txt && [[ -e $(volume half 1).partial ]]; then
    killed=$((killed + 1))
    check "a set without its first volume is no set" test ! -e "$(volume half 1)"
    expect 3 "$KOMPAKT" convert "$TINY" half.kpk --volume-size 5MiB
    stderr_has 'the volumes differ'
  fi
  expect 0 "${half[@]}"
  for i in 1 2 3; do same_bytes "$(volume half $i)" "$(volume set $i)"; done
  check "nothing else is left" test "$(ls | grep -c '^half')" -eq 3
done
check "most of 7 conversions were killed on the way, found $killed" test "$killed" -ge 3
