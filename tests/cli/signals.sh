# SIGINT and SIGTERM stop every long work within a second; what was printed goes on with it, from names that need quotes.
expect 0 "$PYTHON" "$CLI/signal_phases.py" "$KOMPAKT" "$DATA/checkpoints"
stdout_has 'signals, [0-9]+ left something to go on with'
