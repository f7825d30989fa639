#!/usr/bin/env bash
# IWSLT'15 English-Vietnamese, TED talks: 133k pairs, tst2012 and tst2013.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt15_en_vi.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt15_en_vi.sh --size small --models dense 4
#   ./recipes/iwslt15_en_vi.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate iwslt15-en-vi --name En-Vi \
  --paper "--models dense quaternion 2 4 8 16 --updates 50000" \
  --published '{"dense": ["44M", 28.43], "quaternion": ["11M", 28.00],
    "2": ["22M", 29.25], "4": ["11M", 29.13], "8": ["5.5M", 29.34], "16": ["2.9M", 29.04],
    "2-wide": ["44M", 29.54], "4-wide": ["22M", 29.17], "8-wide": ["11M", 29.47]}' "$@"
