#!/usr/bin/env bash
# IWSLT'14 Romanian-English, TED talks. There is no download: --raw DIR.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt14_ro_en.sh --size paper --raw DIR [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt14_ro_en.sh --size small --models dense 4
#   ./recipes/iwslt14_ro_en.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate iwslt14-ro-en --name Ro-En \
  --paper "--models dense quaternion 2 4 8 16 --updates 50000" \
  --published '{"dense": ["44M", 34.60], "quaternion": ["11M", 30.53],
    "2": ["22M", 33.40], "4": ["11M", 32.74], "8": ["5.5M", 31.88], "16": ["2.9M", 31.53],
    "2-wide": ["44M", 33.88], "4-wide": ["22M", 33.80], "8-wide": ["11M", 32.59]}' "$@"
