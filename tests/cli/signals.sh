# SIGINT and SIGTERM stop every long work within a second; what was printed goes on with it, from names that need quotes.
# Where nothing has to be kept a signal ends the process with its threads at work: the thread sanitizer calls them leaked,
# and sleeps for a second at every end.
export TSAN_OPTIONS="${TSAN_OPTIONS:-}:report_thread_leaks=0:atexit_sleep_ms=0"
expect 0 "$PYTHON" "$CLI/signal_phases.py" "$KOMPAKT" "$DATA/checkpoints"
stdout_has 'signals, [0-9]+ left something to go on with'
