# Virtual environments for the scripts beside it, which source it at the root.

fail() {
  echo "$*" >&2
  exit 1
}

# find_python: sets `python` to one that is new enough.
find_python() {
  local candidates=(python3 python3.13 python3.12 python3.11) version found=""
  local program='import sys
print("%d.%d.%d" % sys.version_info[:3])
sys.exit(sys.version_info < (3, 11))'
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for python in "${candidates[@]}"; do
    if version=$("$python" -c "$program" 2>/dev/null); then return; fi
    [ -z "$version" ] || found+=", $python is $version"
  done
  [ -n "$found" ] || found=", found none as ${candidates[*]}"
  fail "Python 3.11 or later is needed$found. Set PYTHON=/path/to/python."
}

# enter_environment DIRECTORY PIP_ARGUMENTS...: makes `python` that of DIRECTORY,
# where pip installs this; again only when a file of requirements changed.
enter_environment() {
  local directory=$1 python log=$1/pip.log stamp=$1/installed sum
  shift
  PATH=$PWD/$directory/bin:$PATH
  sum=$(echo "$@" | cat - requirements*.txt pyproject.toml | cksum)
  if [ -x "$directory/bin/python" ] &&
    [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ]; then return; fi
  if ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python has no venv. Install it (apt install python3-venv) or" \
        "set PYTHON=/path/to/python."
    "$python" -m venv "$directory" ||
      fail "$directory cannot be made. Delete it and start again."
  fi
  echo "Installing into $directory, which takes minutes once: $*"
  if ! "$directory/bin/python" -m pip install -q "$@" 2>"$log"; then
    if grep -q "connection broken" "$log"; then
      fail "The package index cannot be reached ($log). Connect, or set" \
        "PIP_INDEX_URL to a mirror."
    fi
    cat "$log" >&2
    fail "pip could not install $*: see above."
  fi
  echo "$sum" >"$stamp"
}
