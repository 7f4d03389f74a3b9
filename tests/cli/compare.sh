# compare: what packing cost, against the original, on a text.
TINY=$DATA/checkpoints/tiny-v3
head -c 14000 "$DATA/text/eval.txt" >text.txt
number() { "$PYTHON" -c "import json; d=json.load(open('.stdout')); assert $1, {k: v for k, v in d.items() if k != 'layers'}"; }

expect 0 "$KOMPAKT" convert "$TINY" lossless.kpk --recipe lossless
expect 0 "$KOMPAKT" convert "$TINY" q4.kpk
expect 0 "$KOMPAKT" compare "$TINY" lossless.kpk -f text.txt --json
check "a lossless file is the original" number 'd["mean_kl"] < 1e-9 and d["same_top1"] == 1 and d["ppl_original"] == d["ppl_packed"]'
expect 0 "$KOMPAKT" perplexity q4.kpk -f text.txt --json
perplexity=$("$PYTHON" -c 'import json; print(json.load(open(".stdout"))["perplexity"])')
expect 0 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --json
check "the perplexity is that of kompakt perplexity" number "abs(d['ppl_packed'] / $perplexity - 1) < 1e-5"
check "every layer is told" number 'len(d["layers"]) == 4 and "router_agreement" not in d["layers"][0] and 0.5 < d["layers"][3]["router_agreement"] <= 1'
check "tokens are counted" number 'sum(d["layers"][1]["tokens_per_expert"]) == 4 * 512 * d["chunks"]'
check "KL is above its noise floor" number 'd["mean_kl"] > 100 * d["noise_floor"]["summation order"]["mean_kl"]'
expect 0 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --path reference --floor-chunks 0
stdout_has 'kernels reference'
stdout_has '^mean KL +0\.00'

expect 0 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --gate kl=0.5
expect 1 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --gate kl=0.000001
stderr_has 'above the gate'
expect 2 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --gate 5
expect 2 "$KOMPAKT" compare lossless.kpk q4.kpk -f text.txt --path slow
expect 4 "$KOMPAKT" compare "$DATA/checkpoints/v3" q4.kpk -f text.txt
stderr_has "no tokenizer"

# A baseline stands for the original: made alone or beside a comparison, the same bytes.
expect 0 "$KOMPAKT" compare lossless.kpk --save-baseline alone.kbl -f text.txt
stdout_has 'scored tokens in'
expect 0 "$KOMPAKT" compare lossless.kpk q4.kpk --save-baseline beside.kbl -f text.txt --json --floor-chunks 0
same_bytes alone.kbl beside.kbl
read -r kl ppl bytes < <("$PYTHON" -c 'import json; d=json.load(open(".stdout")); print(d["mean_kl"], d["ppl_packed"], d["tokens_scored"])')
check "a scored token takes 300 bytes at most" "$PYTHON" -c "import os; assert os.path.getsize('alone.kbl') <= 300 * $bytes"
expect 0 "$KOMPAKT" compare alone.kbl q4.kpk -f text.txt --json
check "its KL is a lower bound, and near" number "0.8 * $kl < d['mean_kl'] < $kl + 1e-6 and d['kl_is'] == 'lower bound'"
check "the rest is exact" number "abs(d['ppl_packed'] - $ppl) < 1e-6 and d['layers'] == [] and d['baseline']['not_measured']"
check "int8 activations are a floor too" number 'any("int8" in k for k in d["noise_floor"])'
expect 0 "$KOMPAKT" compare alone.kbl q4.kpk -f text.txt --floor-chunks 0
stdout_has '^mean KL +>= 0\.0'
stdout_has 'a baseline does not hold them'
head -c 13000 text.txt >other.txt
expect 3 "$KOMPAKT" compare alone.kbl q4.kpk -f other.txt
stderr_has 'another text'
expect 2 "$KOMPAKT" compare alone.kbl q4.kpk -f text.txt -c 256
expect 2 "$KOMPAKT" compare alone.kbl --save-baseline again.kbl -f text.txt
expect 2 "$KOMPAKT" compare lossless.kpk -f text.txt
head -c 5000 alone.kbl >short.kbl
expect 3 "$KOMPAKT" compare short.kbl q4.kpk -f text.txt
stderr_has 'short.kbl: expected [0-9]+ bytes'
