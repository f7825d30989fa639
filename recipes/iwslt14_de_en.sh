#!/usr/bin/env bash
# IWSLT'14 German-English, TED talks: every 23rd pair is held out for validation.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt14_de_en.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt14_de_en.sh --size small --models dense 4
#   ./recipes/iwslt14_de_en.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate iwslt14-de-en --name De-En \
  --paper "--models dense quaternion 2 4 8 16 --updates 50000" \
  --published '{"dense": ["44M", 36.68], "quaternion": ["11M", 32.83],
    "2": ["22M", 35.52], "4": ["11M", 35.53], "8": ["5.5M", 34.16], "16": ["2.9M", 33.89],
    "2-wide": ["44M", 34.32], "4-wide": ["22M", 34.86], "8-wide": ["11M", 34.71]}' "$@"
