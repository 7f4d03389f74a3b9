# Perplexity in llama-perplexity's convention, against an independent implementation.
source=$DATA/checkpoints/tiny-v3
text=$DATA/text/eval.txt
for recipe in lossless q8 q4; do
  expect 0 "$KOMPAKT" convert "$source" $recipe.kpk --recipe $recipe
  expect 0 "$KOMPAKT" perplexity $recipe.kpk -f "$text" --json
  cp .stdout $recipe.json
done
expect 0 "$PYTHON" - "$source/reference.json" <<'TEXT'
import json, sys
reference = json.load(open(sys.argv[1]))["perplexity"]["eval.txt"]
measured = {name: json.load(open(name + ".json")) for name in ("lossless", "q8", "q4")}
lossless = measured["lossless"]
failures = []
def expect(what, ok):
    if not ok:
        failures.append(what)
expect(f"tokens {lossless['tokens']}, reference {reference['tokens']}", lossless["tokens"] == reference["tokens"])
expect(f"scored {lossless['tokens_scored']}, reference {reference['scored']}",
       lossless["tokens_scored"] == reference["scored"])
# Four digits.
expect(f"lossless {lossless['perplexity']}, reference {reference['ppl']}",
       abs(lossless["perplexity"] / reference["ppl"] - 1) < 5e-5)
expect(f"stderr {lossless['stderr']}, reference {reference['ppl_stderr']}",
       abs(lossless["stderr"] / reference["ppl_stderr"] - 1) < 1e-3)
expect(f"q8 {measured['q8']['perplexity']} is not within 0.1 % of lossless",
       abs(measured["q8"]["perplexity"] / lossless["perplexity"] - 1) < 1e-3)
# 4-bit files of this checkpoint measured elsewhere cost up to 1.8 %.
expect(f"q4 {measured['q4']['perplexity']} is not within 1.8 % of lossless",
       abs(measured["q4"]["perplexity"] / lossless["perplexity"] - 1) < 0.018)
print("\n".join(failures))
sys.exit(bool(failures))
TEXT

# The number does not depend on the threads.
head -c 6000 "$text" >some.txt
without_seconds() { grep -Ev 'seconds|joules' .stdout; }
expect 0 "$KOMPAKT" perplexity q4.kpk -f some.txt -t 1 --json
one_thread=$(without_seconds)
expect 0 "$KOMPAKT" perplexity q4.kpk -f some.txt -t 3 --json
check "-t 3 as -t 1" test "$one_thread" = "$(without_seconds)"

# Without --json, another chunk size, a text too short for one chunk, a model that cannot tokenize.
expect 0 "$KOMPAKT" perplexity q4.kpk -f some.txt -c 256
stdout_has '^perplexity [0-9]+\.[0-9]+ \+/- '
stdout_has 'chunks of 256'
echo "Short." >short.txt
expect 2 "$KOMPAKT" perplexity q4.kpk -f short.txt
stderr_has '512'
expect 4 "$KOMPAKT" perplexity q4.kpk -f absent.txt
stderr_has 'absent\.txt'
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/v2" no-tokenizer.kpk
expect 4 "$KOMPAKT" perplexity no-tokenizer.kpk -f "$text"
stderr_has 'tokenizer'
