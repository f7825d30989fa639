#!/usr/bin/env bash
# WMT English-Romanian: Europarl and SETimes, newsdev and newstest 2016.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/wmt18_en_ro.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/wmt18_en_ro.sh --size small --models dense 4
#   ./recipes/wmt18_en_ro.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate wmt18-en-ro --name En-Ro \
  --paper "--models dense quaternion 2 4 8 16 --updates 100000" \
  --published '{"dense": ["44M", 22.79], "quaternion": ["11M", 18.50],
    "2": ["22M", 21.73], "4": ["11M", 21.19], "8": ["5.5M", 21.66], "16": ["2.9M", 19.63],
    "2-wide": ["44M", 22.18], "4-wide": ["22M", 21.91], "8-wide": ["11M", 21.43]}' "$@"
