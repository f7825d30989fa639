# Sourced by the recipes: checks the options, makes .venv, runs.
#   PYTHON          interpreter for .venv (default: python3)
#   RECIPE_PYTHON   interpreter of an environment that is there: no .venv is made

recipe() { # MODULE OPTIONS...
  local here module=$1 python=${RECIPE_PYTHON:-}
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  shift
  PYTHONPATH=$here "${python:-${PYTHON:-python3}}" -m recipes.options "$module" "$@"
  case " $* " in *" -h "* | *" --help "*) exit ;; esac
  if [ -z "$python" ]; then
    "$here/recipes/environment.sh" "$here/.venv" recipes
    python=$here/.venv/bin/python
  fi
  PYTHONPATH=$here exec "$python" -m "recipes.$module" "$@"
}

translate() { recipe translation "$@"; }
classify() { recipe classification "$@"; }
