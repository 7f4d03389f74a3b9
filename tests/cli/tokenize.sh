# Token ids as the upstream library gives them, from a folder that holds only a tokenizer and from a packed file.
# tests/runtime goes through every line of the goldens, this case through some.
goldens=$DATA/tokenizers/goldens
v3=$DATA/tokenizers/deepseek-v3
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" tiny.kpk
expect 0 "$PYTHON" "$CLI/check_tokenizer.py" "$KOMPAKT" tiny.kpk "$goldens/small.jsonl" 4
expect 0 "$PYTHON" "$CLI/check_tokenizer.py" "$KOMPAKT" "$v3" "$goldens/deepseek-v3.jsonl" 60

for row in "deepseek-v3 $v3" "small $DATA/checkpoints/tiny-v3"; do
  expect 0 "$KOMPAKT" tokenize "${row#* }" -f "$goldens/big.txt" --json
  check "big.txt with ${row%% *}" "$PYTHON" -c '
import json, sys
found, wanted = json.load(open(".stdout"))["ids"], json.load(open(sys.argv[1]))["ids"]
assert found == wanted, next((i, a, b) for i, (a, b) in enumerate(zip(found + [None], wanted + [None])) if a != b)
' "$goldens/big.${row%% *}.json"
done

# Special tokens are found in the text, unless told otherwise.
expect 0 "$KOMPAKT" tokenize "$v3" -p '<｜User｜>Hello' --json
with_special=$(<.stdout)
expect 0 "$KOMPAKT" tokenize "$v3" -p '<｜User｜>Hello' --no-special --json
check "--no-special changes the ids" test "$with_special" != "$(<.stdout)"
expect 0 "$KOMPAKT" tokenize "$v3" -p ''
expect 0 "$KOMPAKT" tokenize "$v3" --decode 19923,14,2058,3
stdout_is 'Hello, world!'
printf '19923, 14\n2058 3' >ids.txt
expect 0 "$KOMPAKT" tokenize "$v3" --decode @ids.txt
stdout_is 'Hello, world!'
tokenize_stdin() { printf 'Hello, world!' | "$KOMPAKT" tokenize "$v3" -f -; }
expect 0 tokenize_stdin
stdout_is '19923,14,2058,3'
# Bytes that are no UTF-8 are replaced as the upstream library does it, never a crash.
printf 'a\xff\xfe\xed\xa0\x80b' >broken.txt
expect 0 "$KOMPAKT" tokenize "$v3" -f broken.txt --json
check "valid JSON" "$PYTHON" -c 'import json; json.load(open(".stdout"))'

expect 2 "$KOMPAKT" tokenize "$v3" --decode 1,999999999
expect 2 "$KOMPAKT" tokenize "$v3" --decode 1,x
expect 2 "$KOMPAKT" tokenize "$v3"
expect 4 "$KOMPAKT" tokenize "$v3" -f absent.txt
mkdir nothing
expect 4 "$KOMPAKT" tokenize nothing -p x
stderr_has 'nothing'
mkdir broken
echo '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]}}' >broken/tokenizer.json
expect 3 "$KOMPAKT" tokenize broken -p x
stderr_has 'Unigram'
head -c 1000 "$DATA/checkpoints/tiny-v3/tokenizer.json" >broken/tokenizer.json
expect 3 "$KOMPAKT" tokenize broken -p x
