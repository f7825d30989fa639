#!/usr/bin/env bash
# Makes an environment, installs the project and runs the linter and all tests.
#   ./tests/run.sh         Python 3.11 (else python3), fairseq-fixed
#   ./tests/run.sh --all   and Python 3.10, fairseq 0.12.2, torch 2.2.2 where 3.10 exists
#   ./tests/run.sh [--all] -- ARGUMENTS    for pytest
set -euo pipefail
cd "$(dirname "$0")/.."

all=
if [ "${1:-}" = --all ]; then all=1 && shift; fi
if [ "${1:-}" = -- ]; then shift; fi

find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
      echo "$candidate" && return
    fi
  done
  return 1
}

environment() { # NAME PYTHON EXTRAS
  FAIRSEQ=$1 PYTHON=$2 recipes/driver/environment.sh ".venv-$1" "$3"
}

tests() { # NAME PYTEST_ARGUMENTS...
  local python=".venv-$1/bin/python"
  echo "== $1, $("$python" --version)"
  shift
  "$python" -m pytest "$@"
}

environment fairseq-fixed "$(find_python 3.11 || echo python3)" test,recipes,export
.venv-fairseq-fixed/bin/ruff check .
.venv-fairseq-fixed/bin/ruff format --check .
if [ -z "$all" ]; then
  tests fairseq-fixed "$@"
elif python310=$(find_python 3.10); then
  environment stock "$python310" test,recipes
  # Most tests wait for programs of one thread: both at once.
  export OMP_NUM_THREADS=1
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  tests stock "$@" >"$log" 2>&1 &
  failed=
  tests fairseq-fixed "$@" || failed=1
  wait $! || failed=1
  cat "$log"
  [ -z "$failed" ]
else
  tests fairseq-fixed "$@"
  echo "No Python 3.10 here: fairseq 0.12.2 is not tested." >&2
fi
