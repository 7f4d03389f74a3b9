# Shared by the refuses_*.sh cases. Each line of theirs names a damage of make_bad_checkpoint.py and what the message
# must say: the offender, and what was found.

bad_checkpoint() { "$PYTHON" "$CLI/make_bad_checkpoint.py" "$1" "$DATA/checkpoints" bad; }

# refuses DAMAGE REGEX...: every reader of the checkpoint stops with exit code 3, and there is no destination.
refuses() {
  local damage=$1 regex
  shift
  bad_checkpoint "$damage"
  last_command="damage $damage"
  expect 3 "$KOMPAKT" convert bad out.kpk
  for regex in "$@"; do stderr_has "$regex"; done
  stdout_empty
  check "$damage: convert must leave no destination" test ! -e out.kpk
  rm -f out.kpk*
}

# The same, and `plan` sees it too: the headers are enough, no weight is read.
refuses_early() {
  refuses "$@"
  shift
  expect 3 "$KOMPAKT" plan bad
  local regex
  for regex in "$@"; do stderr_has "$regex"; done
  check "nothing may be written before the headers are checked" test ! -e out.kpk.partial
}

# The unharmed copy converts, so what the cases see is the damage.
accepts_the_unharmed_copy() {
  bad_checkpoint none
  expect 0 "$KOMPAKT" convert bad out.kpk
  rm -f out.kpk
}
