#!/usr/bin/env bash
# Language models on any text, from raw files to perplexity.
#   ./recipes/language_model.sh --raw DIR --models dense 4 4r4 --seeds 1 2 3
#   ./recipes/language_model.sh --raw DIR --models 4 --name quarter -- --phm-embeddings 4
#   ./recipes/language_model.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe language_model "$@"
