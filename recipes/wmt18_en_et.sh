#!/usr/bin/env bash
# WMT'18 English-Estonian: Europarl, Rapid and ParaCrawl, newsdev and newstest 2018.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/wmt18_en_et.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/wmt18_en_et.sh --size small --models dense 4
#   ./recipes/wmt18_en_et.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate wmt18-en-et --name En-Et \
  --paper "--models dense quaternion 2 4 8 16 --updates 100000" \
  --published '{"dense": ["44M", 14.17], "quaternion": ["11M", 13.10],
    "2": ["22M", 14.98], "4": ["11M", 14.11], "8": ["5.5M", 13.08], "16": ["2.9M", 12.15],
    "2-wide": ["44M", 14.05], "4-wide": ["22M", 14.43], "8-wide": ["11M", 13.75]}' "$@"
