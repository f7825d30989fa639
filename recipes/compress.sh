#!/usr/bin/env bash
# Compression: a dense model as PHM models, right after compression and trained on, beside
# PHM models from scratch with as many updates in all.
#   ./recipes/compress.sh                                   demo corpus, English to German
#   ./recipes/compress.sh --raw DIR --src en --tgt vi --size small --models 2 4 4r4 --distill
#   ./recipes/compress.sh --raw DIR --src en --tgt vi --checkpoint dense.pt --updates-on 500
#   ./recipes/compress.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe compress "$@"
