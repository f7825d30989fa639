#!/usr/bin/env bash
# From nothing to a scored translation: environment, corpus, training, decoding, BLEU.
#   ./recipes/quickstart.sh                demo corpus, English to German, about 5 minutes
#   ./recipes/quickstart.sh --compare      the dense Transformer too, in the same run
#   ./recipes/quickstart.sh --help         all options, your own files among them
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
"$here/recipes/environment.sh" "$here/.venv" recipes
PYTHONPATH="$here" exec "$here/.venv/bin/python" -m recipes.translation "$@"
