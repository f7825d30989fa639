#!/usr/bin/env bash
# SETimes English-Macedonian, news; the paper's splits are not known.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/setimes_en_mk.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/setimes_en_mk.sh --size small --models dense 4
#   ./recipes/setimes_en_mk.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
translate setimes-en-mk --name En-Mk \
  --paper "--models dense quaternion 2 4 8 16 --updates 100000" \
  --published '{"dense": ["44M", 13.96], "quaternion": ["11M", 13.67],
    "2": ["22M", 13.60], "4": ["11M", 13.01], "8": ["5.5M", 12.95], "16": ["2.9M", 11.97],
    "2-wide": ["44M", 14.41], "4-wide": ["22M", 13.78], "8-wide": ["11M", 13.78]}' "$@"
