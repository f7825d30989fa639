#!/usr/bin/env bash
# Makes an environment, installs the project, runs the linter and the tests.
#   ./tests/run.sh            Python 3.11 (else python3), fairseq-fixed
#   ./tests/run.sh --all      and Python 3.10, fairseq 0.12.2, torch 2.2.2 where 3.10 exists:
#                             what depends on versions
#   ./tests/run.sh --nightly  all tests on both, more examples of properties, 50 kills
#   ./tests/run.sh [--all | --nightly] -- ARGUMENTS    for pytest
set -euo pipefail
cd "$(dirname "$0")/.."

which=one
case "${1:-}" in --all | --nightly) which=${1#--} && shift ;; esac
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

tests() { # NAME MARKERS PYTEST_ARGUMENTS...
  local python=".venv-$1/bin/python" markers=$2
  echo "== $1, $("$python" --version)"
  shift 2
  # One process a core, of one thread each; a file stays in one process.
  OMP_NUM_THREADS=1 "$python" -m pytest -n auto --dist loadfile -m "$markers" "$@"
}

failed=
gate="not nightly"
if [ "$which" = nightly ]; then gate="" && export HYPOTHESIS_PROFILE=many; fi
stock=
if [ "$which" != one ] && ! python310=$(find_python 3.10); then
  echo "No Python 3.10 here: fairseq 0.12.2 is not tested." >&2
elif [ "$which" != one ]; then # beside the other version
  log=$(mktemp)
  trap 'rm -f "$log"; kill -- "-$stock" 2>/dev/null || true' EXIT
  set -m # a process group of its own, which ends with this script
  {
    environment stock "$python310" test,recipes
    tests stock "${gate:+$gate and not one_version}" "$@"
  } >"$log" 2>&1 &
  stock=$!
  set +m
fi
environment fairseq-fixed "$(find_python 3.11 || echo python3)" test,recipes,export
.venv-fairseq-fixed/bin/ruff check .
.venv-fairseq-fixed/bin/ruff format --check .
tests fairseq-fixed "$gate" "$@" || failed=1
if [ -n "$stock" ]; then
  wait "$stock" || failed=1
  cat "$log"
fi
if [ "$which" = nightly ]; then .venv-fairseq-fixed/bin/python tests/kill_campaign.py || failed=1; fi
[ -z "$failed" ]
