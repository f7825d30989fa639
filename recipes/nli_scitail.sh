#!/usr/bin/env bash
# Natural language inference on SciTail: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. Columns: premise, hypothesis, label.
#   ./recipes/nli_scitail.sh --vectors glove.6B.300d.txt [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/nli_scitail.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
nli scitail --name SciTail \
  --paper "--models dense quaternion 2 5 10 --seeds 1 2 3 --epochs 6" \
  --published '{"dense": ["721K", 74.36], "quaternion": ["180K", 75.58],
    "2": ["361K", 77.47], "5": ["146K", 74.64], "10": ["81K", 77.84]}' "$@"
