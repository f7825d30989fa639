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

on_fairseq() { # NAME PYTHON PYTEST_ARGUMENTS...
  local name=$1 python=$2
  shift 2
  FAIRSEQ=$name PYTHON=$python recipes/environment.sh ".venv-$name" test,recipes
  echo "== $name, $(".venv-$name/bin/python" --version)"
  ".venv-$name/bin/python" -m pytest "$@"
}

on_fairseq fairseq-fixed "$(find_python 3.11 || echo python3)" "$@"
.venv-fairseq-fixed/bin/ruff check .
.venv-fairseq-fixed/bin/ruff format --check .
if [ -n "$all" ]; then
  if python310=$(find_python 3.10); then
    on_fairseq stock "$python310" "$@"
  else
    echo "No Python 3.10 here: fairseq 0.12.2 is not tested." >&2
  fi
fi
