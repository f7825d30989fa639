#!/usr/bin/env bash
# IWSLT'17 English-Indonesian, TED talks; dev2010 and tst2010, tst2017plus.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt17_en_id.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt17_en_id.sh --size small --models dense 4
#   ./recipes/iwslt17_en_id.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate iwslt17-en-id --name En-Id \
  --paper "--models dense quaternion 2 4 8 16 --updates 50000" \
  --published '{"dense": ["44M", 47.40], "quaternion": ["11M", 42.22],
    "2": ["22M", 46.32], "4": ["11M", 44.13], "8": ["5.5M", 40.81], "16": ["2.9M", 33.48],
    "2-wide": ["44M", 49.05], "4-wide": ["22M", 46.24], "8-wide": ["11M", 43.49]}' "$@"
