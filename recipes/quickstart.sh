#!/usr/bin/env bash
# From nothing to a scored translation: environment, corpus, training, decoding, BLEU.
#   ./recipes/quickstart.sh                demo corpus, English to German, about 4 minutes
#   ./recipes/quickstart.sh --compare      and what shows what PHM is for: rules of rank n,
#                                          the dense twin, a dense model of equal size
#   ./recipes/quickstart.sh --help         all options, your own files among them
# PYTHON=python3.12 ./recipes/quickstart.sh  chooses the interpreter.
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation cldr --name quickstart --size quickstart --models 4 --src en --tgt de \
  --mean none "$@"
