# calibrate: what goes into a model's matrices; convert --calibration and --calibrate use it.
TINY=$DATA/checkpoints/tiny-v3
head -c 20000 "$DATA/text/calibration.txt" >text.txt
number() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); assert $1, d"; }

expect 0 "$KOMPAKT" calibrate "$TINY" -f text.txt -o a.kcal --json -t 1
check "tokens and inputs are counted" number 'd["tokens"] > 4000 and d["inputs"] > 100 and len(d["coverage"]) == 3'
stderr_has 'at most .* of memory besides the model .*a.kcal will take'
expect 0 "$KOMPAKT" calibrate "$TINY" -f text.txt -o b.kcal -t 3
stdout_has 'fewest +median'
same_bytes a.kcal b.kcal
expect 0 "$KOMPAKT" calibrate "$TINY" -o default.kcal --tokens 300 --min-tokens 1000
stdout_has 'the text in kompakt'
stderr_has 'warning: .*fewer than 1000 times'
expect 0 "$KOMPAKT" convert "$TINY" lossless.kpk --recipe lossless
expect 0 "$KOMPAKT" calibrate lossless.kpk -f text.txt -o from-kpk.kcal
expect 0 "$KOMPAKT" calibrate "$TINY" -f text.txt -o h.kcal --hessian --tokens 600 --json
check "second moments are in the file" number 'd["hessian"] and d["file_bytes"] > 10000000'

# A conversion says that it is calibrated, and is made again only with the same calibration.
expect 0 "$KOMPAKT" plan "$TINY" --calibration a.kcal --json
check "the plan is calibrated" number 'd["calibrated"] and d["calibration"]["tokens"] > 4000'
expect 0 "$KOMPAKT" convert "$TINY" c.kpk --calibration a.kcal --json
check "the conversion is calibrated" number 'd["calibrated"]'
expect 0 "$KOMPAKT" convert "$TINY" c.kpk --calibration from-kpk.kcal
stdout_has 'was already complete'
expect 2 "$KOMPAKT" convert "$TINY" c.kpk --calibration default.kcal
stderr_has 'the calibration data differ'
expect 2 "$KOMPAKT" convert "$TINY" c.kpk
stderr_has 'the calibration data differ'
expect 0 "$KOMPAKT" convert "$TINY" free.kpk --json
check "data-free is the default" number 'not d["calibrated"]'
check "the weights differ" bash -c '! cmp -s <(tail -c +100000 c.kpk | head -c 5000000) <(tail -c +100000 free.kpk | head -c 5000000)'
expect 0 "$KOMPAKT" inspect c.kpk
stdout_has '^calibrated, with calibration data of XXH3 [0-9a-f]{16}$'
expect 0 "$KOMPAKT" inspect free.kpk --json
check "inspect says data-free" number 'not d["calibrated"]'
expect 0 "$KOMPAKT" verify c.kpk --source "$TINY" --calibration a.kcal --samples 0
stdout_has 'every byte equal'
expect 0 "$KOMPAKT" verify c.kpk --source "$TINY"
stderr_has 'was made with a calibration'
expect 3 "$KOMPAKT" verify c.kpk --source "$TINY" --calibration default.kcal
stderr_has 'another calibration'
expect 3 "$KOMPAKT" verify free.kpk --source "$TINY" --calibration a.kcal
stderr_has 'without calibration'

# In one go: the calibration stays beside the file, and is used again.
expect 0 "$KOMPAKT" convert "$TINY" one.kpk --calibrate text.txt
same_bytes one.kpk c.kpk
same_bytes one.kpk.kcal a.kcal
rm one.kpk
expect 0 "$KOMPAKT" convert "$TINY" one.kpk --calibrate text.txt
stderr_has 'one.kpk.kcal is of these weights and this text'
rm one.kpk
expect 2 "$KOMPAKT" convert "$TINY" one.kpk --calibrate default
stderr_has 'one.kpk.kcal is in the way'
expect 2 "$KOMPAKT" convert "$TINY" x.kpk --calibrate text.txt --part 1/2
expect 2 "$KOMPAKT" convert "$TINY" x.kpk --calibrate text.txt --calibration a.kcal

# Second moments: error feedback, recorded in the recipe; the same recipe and calibration give the same bytes.
expect 0 "$KOMPAKT" plan "$TINY" --calibration h.kcal --size 8275136 --json
check "feedback takes memory, but no more of the file" number 'd["tensor_bytes"] <= 8275136 and d["error_feedback"] == 0.01'
expect 0 "$KOMPAKT" convert "$TINY" fed.kpk --calibration h.kcal --size 8275136 --write-recipe fed.recipe
expect 0 grep -q '^.error-feedback 0.01.  # ' fed.recipe
expect 0 "$KOMPAKT" convert "$TINY" again.kpk --calibration h.kcal --recipe fed.recipe -t 1
same_bytes fed.kpk again.kpk
for part in 1 2; do expect 0 "$KOMPAKT" convert "$TINY" parts.kpk --calibration h.kcal --recipe fed.recipe --part $part/2; done
same_bytes fed.kpk parts.kpk
expect 0 "$KOMPAKT" convert lossless.kpk from-packed.kpk --calibration h.kcal --recipe fed.recipe
check "a lossless file gives the same weights" bash -c 'cmp <(head -c 8000000 fed.kpk | tail -c +65) <(head -c 8000000 from-packed.kpk | tail -c +65)'
expect 0 "$KOMPAKT" verify fed.kpk --source "$TINY" --calibration h.kcal --samples 0
stdout_has '201 tensors .* every byte equal'
expect 0 "$KOMPAKT" verify from-packed.kpk --source lossless.kpk --calibration h.kcal --samples 20
expect 0 "$KOMPAKT" convert "$TINY" off.kpk --calibration h.kcal --size 8275136 --error-feedback off --json
check "and can be left out" number 'd["calibrated"]'
check "then the weights differ" bash -c '! cmp -s <(head -c 8000000 fed.kpk) <(head -c 8000000 off.kpk)'
expect 2 "$KOMPAKT" convert "$TINY" x.kpk --recipe fed.recipe
stderr_has 'needs a calibration with second moments'
expect 2 "$KOMPAKT" convert "$TINY" x.kpk --recipe fed.recipe --calibration a.kcal
stderr_has 'a.kcal holds no second moments'
expect 2 "$KOMPAKT" convert "$TINY" x.kpk --error-feedback 3 --calibration h.kcal
stderr_has '--error-feedback: .*expected off, or a damping'
head -c 2000 text.txt >short.txt
expect 0 "$KOMPAKT" convert "$TINY" go.kpk --calibrate short.txt --hessian
expect 0 "$KOMPAKT" inspect go.kpk
expect 2 "$KOMPAKT" convert "$TINY" go2.kpk --hessian

# What it refuses.
expect 3 "$KOMPAKT" convert "$DATA/checkpoints/v3" x.kpk --calibration a.kcal
stderr_has 'a.kcal: made for another model \(tiny-v3'
head -c 1000 a.kcal >short.kcal
expect 3 "$KOMPAKT" convert "$TINY" x.kpk --calibration short.kcal
stderr_has 'short.kcal: expected [0-9]+ bytes, found 1000'
expect 3 "$KOMPAKT" convert "$TINY" x.kpk --calibration text.txt
stderr_has 'text.txt: expected a calibration file'
expect 4 "$KOMPAKT" convert "$TINY" x.kpk --calibration nothing.kcal
: >empty.txt
expect 2 "$KOMPAKT" calibrate "$TINY" -f empty.txt -o x.kcal
stderr_has 'no tokens'
expect 2 "$KOMPAKT" calibrate "$TINY" -f text.txt
expect 2 "$KOMPAKT" calibrate "$TINY" -f text.txt -o x.kcal -c 1
expect 4 "$KOMPAKT" calibrate "$TINY" -f nothing.txt -o x.kcal
expect 4 "$KOMPAKT" calibrate "$DATA/checkpoints/v3" -f text.txt -o x.kcal
stderr_has 'no tokenizer'
expect 4 "$KOMPAKT" calibrate "$TINY" -f text.txt -o no/such/folder/x.kcal
check "nothing is left of what was refused" bash -c '! ls x.kcal* x.kpk* 2>/dev/null'
