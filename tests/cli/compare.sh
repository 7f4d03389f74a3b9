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
