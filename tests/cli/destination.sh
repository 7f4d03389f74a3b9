# Destinations that cannot take the file: exit code 4, a message that names them, and nothing half-written in place.
source=$DATA/checkpoints/tiny-v3

expect 4 "$KOMPAKT" convert "$source" no/such/folder/out.kpk
stderr_has 'no/such/folder'
mkdir folder.kpk
"$KOMPAKT" convert "$source" folder.kpk >.stdout 2>.stderr && code=0 || code=$?
check "a folder as destination is refused (found exit code $code)" test "$code" -eq 2 -o "$code" -eq 4
check "the folder is still there" test -d folder.kpk

# A limit of the file's size (EFBIG): 1024 blocks of 1 KiB; the signal that comes with it must not end the program.
limited() { (ulimit -f 1024; exec "$KOMPAKT" convert "$source" limited.kpk); }
expect 4 limited
stderr_has 'limited\.kpk'
check "no destination over the limit" test ! -e limited.kpk

# A file system without room (ENOSPC), on a small one of our own.
no_room() {
  unshare "$@" bash -euc '
    mkdir -p small && mount -t tmpfs -o size=2m tmpfs small
    code=0
    "$KOMPAKT" convert "$1" small/out.kpk || code=$?
    test ! -e small/out.kpk || exit 99
    exit $code' - "$source"
}
can_mount() { unshare "$@" bash -c 'mkdir -p probe && mount -t tmpfs -o size=1m tmpfs probe' 2>/dev/null; }
if can_mount -m; then
  expect 4 no_room -m
  stderr_has 'small/out\.kpk needs [0-9]+ bytes, the disk has [0-9]+ free'
elif can_mount -rm; then
  expect 4 no_room -rm
  stderr_has 'small/out\.kpk needs [0-9]+ bytes, the disk has [0-9]+ free'
else
  note "no small file system could be mounted here; a full one was not tried"
fi

# A folder that may not be written. Root may write everywhere, so root becomes someone else first.
mkdir closed
chmod 555 closed
if ((EUID != 0)); then
  expect 4 "$KOMPAKT" convert "$source" closed/out.kpk
  stderr_has 'closed.*[Pp]ermission denied'
else
  # That someone must be able to reach the program and the checkpoint.
  chmod 755 "$WORK"
  cp "$KOMPAKT" ./program
  cp -r "$source" ./checkpoint
  chmod -R a+rX program checkpoint
  as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
  if as_nobody ./program --version >/dev/null 2>&1; then
    expect 4 as_nobody ./program convert checkpoint closed/out.kpk
    stderr_has 'closed.*[Pp]ermission denied'
    # And a shard that may not be read.
    chmod 000 checkpoint/model-00002-of-000003.safetensors
    expect 4 as_nobody ./program plan checkpoint
    stderr_has 'model-00002-of-000003\.safetensors.*[Pp]ermission'
  else
    note "the program cannot be run as another user here; a closed folder was not tried"
  fi
fi

# stdout that takes nothing.
full_stdout() { "$KOMPAKT" "$@" >/dev/full; }
expect 4 full_stdout --help
