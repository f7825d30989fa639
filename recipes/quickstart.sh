#!/usr/bin/env bash
# From nothing to a scored translation: environment, corpus, training, decoding, BLEU.
#   ./recipes/quickstart.sh                demo corpus, English to German, about 5 minutes
#   ./recipes/quickstart.sh --compare      the dense Transformer too, in the same run
#   ./recipes/quickstart.sh --help         all options, your own files among them
# PYTHON=python3.12 ./recipes/quickstart.sh  chooses the interpreter.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$here "${PYTHON:-python3}" -m recipes.options quickstart "$@"
case " $* " in *" -h "* | *" --help "*) exit ;; esac
"$here/recipes/environment.sh" "$here/.venv" recipes
PYTHONPATH=$here exec "$here/.venv/bin/python" -m recipes.translation "$@"
