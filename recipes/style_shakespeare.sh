#!/usr/bin/env bash
# Style transfer, modern English to Shakespeare's, as translation: 18,395 pairs. 4 + 4
# layers; the paper does not give the warm-up of these 10,000 updates: a third here.
#   ./recipes/style_shakespeare.sh --size paper [--raw DIR] [--seeds 1 2 3] [--fp16]
#   ./recipes/style_shakespeare.sh --size small --models dense 4
#   ./recipes/style_shakespeare.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation shakespeare "$@"
