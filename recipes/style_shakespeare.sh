#!/usr/bin/env bash
# Style transfer, modern English to Shakespeare's, as translation: 18,395 pairs. 4 + 4
# layers; the paper does not give the warm-up of these 10,000 updates: a third here.
#   ./recipes/style_shakespeare.sh --size paper [--raw DIR] [--seeds 1 2 3] [--fp16]
#   ./recipes/style_shakespeare.sh --size small --models dense 4
#   ./recipes/style_shakespeare.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate shakespeare --name Shakespeare \
  --paper "--models dense 2 4 8 16 --updates 10000 --layers 4" \
  --published '{"dense": ["", 11.65], "2": ["", 12.20], "4": ["", 12.42],
    "8": ["", 11.66], "16": ["", 10.76]}' "$@"
