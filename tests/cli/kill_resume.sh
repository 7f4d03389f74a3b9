# A conversion that dies at any moment leaves no half file, and the same command finishes it with the same bytes.
expect 0 "$PYTHON" "$CLI/kill_and_resume.py" "$KOMPAKT" "$DATA/checkpoints/tiny-v3" 100
stdout_has "of 100 kills met a running conversion"

# Another source or recipe does not go on from what it finds.
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" whole.kpk
interrupt_early() { "$PYTHON" "$CLI/kill_and_resume.py" "$KOMPAKT" "$DATA/checkpoints/tiny-v3" --once "$1"; }
expect 130 interrupt_early SIGINT
stderr_has 'half\.kpk'
check "interrupted: no destination yet" test ! -e half.kpk
check "interrupted: what is done is kept" test -s half.kpk.partial
expect 3 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" half.kpk --recipe q8
stderr_has 'half\.kpk'
check "the other recipe's work is still there" test -s half.kpk.partial
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" half.kpk
stdout_has 'resumed'
same_bytes whole.kpk half.kpk
rm half.kpk
expect 130 interrupt_early SIGTERM
# The journal's records are read again: a damaged one is written anew.
"$PYTHON" - <<'TEXT'
with open("half.kpk.partial", "r+b") as f:
    f.seek(5000)
    f.write(b"\x5a" * 64)
TEXT
expect 0 "$KOMPAKT" convert "$DATA/checkpoints/tiny-v3" half.kpk
same_bytes whole.kpk half.kpk
