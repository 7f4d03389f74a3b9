# The words of a command-line case; tests/cli/run sources this file.
#
#   expect CODE COMMAND...   runs it; its exit code must be CODE. Keeps its output for the words below
#   stdout_has REGEX         (extended, one line)       stderr_has REGEX
#   stdout_lacks REGEX                                  stderr_lacks REGEX
#   stdout_is TEXT           (without the last newline) stdout_empty, stderr_empty
#   same_bytes FILE FILE
#   check DESCRIPTION COMMAND...   any other condition
#   note TEXT                says why something was not tried
#
# A failed expectation is printed with the command and its output, and the case goes on.

expectations=0
failures=0
last_command=

fail() {
  failures=$((failures + 1))
  echo "FAILED: $*"
  if [[ -n $last_command ]]; then
    echo "  after: $last_command"
    sed 's/^/  stdout: /' "$WORK/.stdout" | head -n 20
    sed 's/^/  stderr: /' "$WORK/.stderr" | head -n 20
  fi
}

expect() {
  local wanted=$1 got=0
  shift
  expectations=$((expectations + 1))
  last_command="$*"
  "$@" >"$WORK/.stdout" 2>"$WORK/.stderr" || got=$?
  ((got == wanted)) || fail "exit code $wanted expected, $got found"
}

# has STREAM REGEX, lacks STREAM REGEX
has() {
  expectations=$((expectations + 1))
  grep -Eq -e "$2" "$WORK/.$1" || fail "$1 should have /$2/"
}
lacks() {
  expectations=$((expectations + 1))
  ! grep -Eq -e "$2" "$WORK/.$1" || fail "$1 should not have /$2/"
}
empty() {
  expectations=$((expectations + 1))
  [[ ! -s $WORK/.$1 ]] || fail "$1 should be empty"
}
stdout_has() { has stdout "$1"; }
stderr_has() { has stderr "$1"; }
stdout_lacks() { lacks stdout "$1"; }
stderr_lacks() { lacks stderr "$1"; }
stdout_empty() { empty stdout; }
stderr_empty() { empty stderr; }

stdout_is() {
  expectations=$((expectations + 1))
  [[ $(<"$WORK/.stdout") == "$1" ]] || fail "stdout should be '$1'"
}

same_bytes() {
  expectations=$((expectations + 1))
  cmp "$1" "$2" || fail "$1 and $2 should be equal"
}

check() {
  local what=$1
  shift
  expectations=$((expectations + 1))
  "$@" || fail "$what"
}

note() { echo "note: $*"; }

finish() {
  finished=1
  echo "$expectations expectations, $failures failed"
  ((expectations > 0 && failures == 0)) || exit 1
}

# A case that ends early (a command of its own failed, or it called exit) must not look like a success.
finished=
trap '[[ -n $finished ]] || { echo "the case did not come to its end"; exit 1; }' EXIT
