# Every verb explains itself, and a wrong word gets a hint.
expect 0 "$KOMPAKT" --version
stdout_has '^kompakt [0-9]+\.[0-9]+\.[0-9]+$'
expect 0 "$KOMPAKT" --help
stderr_empty
verbs='convert plan inspect verify tokenize trace perplexity calibrate run bench'
for verb in $verbs; do stdout_has "^ +$verb "; done

for verb in $verbs; do
  expect 0 "$KOMPAKT" "$verb" --help
  stdout_has 'Example'
  stdout_has "^ +kompakt $verb .+"
  stdout_has '--json'
  stdout_has '-v'
  stderr_empty
  expect 0 "$KOMPAKT" "$verb" --version
  stdout_has '^kompakt [0-9]'

  expect 2 "$KOMPAKT" "$verb"
  stdout_empty
  expect 2 "$KOMPAKT" "$verb" model --jsno
  stderr_has '[Dd]id you mean.*--json'
  stdout_empty
  expect 2 "$KOMPAKT" "$verb" a b c d e f
  stdout_empty
done

expect 2 "$KOMPAKT"
stdout_empty
expect 2 "$KOMPAKT" convrt
stderr_has '[Dd]id you mean.*convert'
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk --recipe lossles
stderr_has '[Dd]id you mean.*lossless'
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk --tensor 'mlp.experts.*=q4_g23'
stderr_has '[Dd]id you mean.*q4_g32'
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk --tensor 'mlp.experts.*'
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk --tensor 'mlp.exprets.*=q8_g32'
stderr_has 'mlp\.exprets'
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk -t many
expect 2 "$KOMPAKT" convert "$DATA/checkpoints/v3" out.kpk -t -1
expect 2 "$KOMPAKT" perplexity "$DATA/checkpoints/tiny-v3" -f "$DATA/text/eval.txt" -c nine
expect 2 "$KOMPAKT" run "$DATA/checkpoints/tiny-v3" -p Hello --chat --think maybe
expect 2 "$KOMPAKT" run "$DATA/checkpoints/tiny-v3" -p Hello --top-p 2
stderr_has 'top.p'
check "a usage error writes nothing" test ! -e out.kpk.partial -a ! -e out.kpk
