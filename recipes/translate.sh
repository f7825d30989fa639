#!/usr/bin/env bash
# Any parallel text, or a declared data set, from raw files to BLEU.
#   ./recipes/translate.sh --raw DIR --src en --tgt de --models dense quaternion 2 4 8
#   ./recipes/translate.sh iwslt15-en-vi --size tiny
#   ./recipes/translate.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation "$@"
