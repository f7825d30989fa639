# Sourced by the recipes for classification: checks the options, makes .venv, runs.

classify() { # NAME ARCHITECTURE OPTIONS...
  local here name=$1 arch=$2
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  shift 2
  set -- --name "$name" --arch "$arch" "$@"
  PYTHONPATH=$here "${PYTHON:-python3}" -m recipes.options classification "$@"
  case " $* " in *" -h "* | *" --help "*) exit ;; esac
  "$here/recipes/environment.sh" "$here/.venv" recipes
  PYTHONPATH=$here exec "$here/.venv/bin/python" -m recipes.classification "$@"
}
