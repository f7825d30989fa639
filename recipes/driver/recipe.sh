# Sourced by the recipes: checks the options, makes .venv, runs. --paper "OPTIONS" are
# those of the published experiment: defaults for --size paper.
#   PYTHON          interpreter that .venv is made with (default: python3)
#   RECIPE_PYTHON   interpreter of an environment that is there already: no .venv

translate() { recipe translation "$@"; }

classify() { recipe classification "$@"; }

nli() { # DATA_SET OPTIONS...: the paper's siamese LSTM
  local data_set=$1
  shift
  classify "$data_set" --arch phm_lstm_classifier \
    --flags "--word-tokenizer treebank --lowercase
      --optimizer adam --lr 4e-4 --batch-size 256" "$@"
}

recipe() { # MODULE OPTIONS...
  local here module=$1 python=${RECIPE_PYTHON:-}
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  shift
  PYTHONPATH=$here "${python:-${PYTHON:-python3}}" -m recipes.driver.options "$module" "$@"
  case " $* " in *" -h "* | *" --help "*) exit ;; esac
  if [ -z "$python" ]; then
    "$here/recipes/driver/environment.sh" "$here/.venv" recipes
    python=$here/.venv/bin/python
  fi
  PYTHONPATH=$here exec "$python" -m "recipes.driver.$module" "$@"
}
