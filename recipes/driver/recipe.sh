# Sourced by the recipes: checks the options, makes .venv, runs.
#   PYTHON          interpreter that .venv is made with (default: python3)
#   RECIPE_PYTHON   interpreter of an environment that is there already, PYTHONPATH
#                   included: no .venv

recipe() { # MODULE OPTIONS...
  local root module=$1 python=${RECIPE_PYTHON:-}
  root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  local path=$root${RECIPE_PYTHON:+${PYTHONPATH:+:$PYTHONPATH}}
  shift
  export RECIPE=${0##*/} # as messages call it
  export PYTHONSAFEPATH=1 # from Python 3.11 on: no modules of the working directory
  if [ -n "$python" ] && ! command -v "$python" >/dev/null; then
    echo "$RECIPE: RECIPE_PYTHON $python: no such program" >&2 && exit 1
  fi
  PYTHONPATH=$path "${python:-${PYTHON:-python3}}" -m recipes.driver.options "$module" "$@"
  local word
  for word in "$@"; do
    case $word in -h | --help) exit ;; --) break ;; esac
  done
  if [ -z "$python" ]; then
    "$root/recipes/driver/environment.sh" "$root/.venv" recipes
    python=$root/.venv/bin/python
  fi
  PYTHONPATH=$path exec "$python" -m "recipes.driver.$module" "$@"
}
