#!/usr/bin/env bash
# Subject-verb agreement: the number of the verb from the words before it, by a
# Transformer encoder of 2 layers, dense, quaternion and PHM. Columns: prefix, label,
# attractors (nouns of the other number between subject and verb).
#   ./recipes/sva.sh [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/sva.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
classify linzen --name SVA --arch phm_transformer_classifier \
  --paper "--models dense quaternion 2 4 8 --seeds 1 2 3 --epochs 3" --by-column 3 \
  --flags "--min-count 2 --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0
    --batch-size 256 --lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 200" \
  --published '{"dense": ["400K", 94.80], "quaternion": ["100K", 94.70],
    "2": ["200K", 95.14], "4": ["101K", 95.05], "8": ["56K", 95.62]}' "$@"
