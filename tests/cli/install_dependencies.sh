# tools/install_dependencies, on a make-believe system: it finds out what is missing, installs that and no more, and where
# it may not, says what to install.
mkdir bin
for tool in bash sh sed tr cat rm mktemp tail env; do ln -s "$(command -v $tool)" bin/$tool; done
# What dpkg knows is the file `installed`; apt-get adds to it, or fails as many times as `apt-failures` says.
cat >bin/dpkg-query <<'TEXT'
#!/bin/sh
shift 2
for package in "$@"; do
  while read -r known; do [ "$known" = "$package" ] && echo "installed $package"; done <installed
done
exit 1
TEXT
cat >bin/apt-get <<'TEXT'
#!/bin/sh
echo "apt-get $*" >>apt-log
while [ $# -gt 0 ] && [ "$1" != install ] && [ "$1" != update ]; do shift; done
if [ "$1" = install ]; then
  read -r failures <apt-failures
  if [ "$failures" -gt 0 ]; then echo $((failures - 1)) >apt-failures; echo "E: no network" >&2; exit 100; fi
  shift
  for package in "$@"; do case $package in -*) ;; *) echo "$package" >>installed ;; esac; done
fi
TEXT
printf '#!/bin/sh\n' >bin/sleep
printf '#!/bin/sh\necho sudo >>apt-log\nexec "$@"\n' >bin/sudo
chmod +x bin/dpkg-query bin/apt-get bin/sleep bin/sudo

echo ID=debian >debian
echo ID=fedora >fedora
install_on() { # install_on SYSTEM FLAGS...
  local system=$1
  shift
  env -i PATH="$WORK/bin" TMPDIR="$WORK" KOMPAKT_OS_RELEASE="$WORK/$system" bash "$SOURCE/tools/install_dependencies" "$@"
}
fresh() { : >installed; : >apt-log; echo 0 >apt-failures; }
apt_runs() { grep -c "^apt-get .*$1" apt-log || true; }

fresh
expect 0 install_on debian
stdout_has '^Installing: g\+\+ cmake ninja-build pkg-config libabsl-dev .*libcli11-dev$'
check "one update, one install" test "$(apt_runs update) $(apt_runs install)" = "1 1"
expect 0 install_on debian
stdout_empty
stderr_empty
check "nothing missing, nothing run" test "$(apt_runs .)" = 2

# Only what is new: the packages of the tests, then those of the sanitizers.
expect 0 install_on debian --tests
# The system's own python3 may have the modules already.
stdout_has '^Installing: libgtest-dev libgmock-dev python3'
stdout_lacks 'cmake'
expect 0 install_on debian --tests --sanitizers
stdout_has 'clang-16'
stdout_lacks 'libgtest'

# A failure is tried once more, then given up with the list.
fresh
echo 1 >apt-failures
expect 0 install_on debian
fresh
echo 2 >apt-failures
expect 1 install_on debian
stderr_has 'no network'
stderr_has '^ +g\+\+ cmake'

# Another distribution: names what is missing, and goes on once it is there.
fresh
expect 1 install_on fedora
stderr_has 'fedora'
stderr_has '^ +g\+\+ cmake ninja-build .*libcli11-dev$'
check "apt-get was not run" test ! -s apt-log
expect 0 install_on debian
expect 0 install_on fedora
stdout_empty

if ((EUID != 0)); then
  fresh
  expect 0 install_on debian
  check "through sudo" grep -q sudo apt-log
  fresh
  rm bin/sudo
  expect 1 install_on debian
  stderr_has 'sudo'
fi
expect 2 install_on debian --everything
stderr_has "'--everything'"
