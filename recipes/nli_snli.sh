#!/usr/bin/env bash
# Natural language inference on SNLI: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. The paper does not say how long it trains: 10 epochs here.
#   ./recipes/nli_snli.sh --vectors glove.6B.300d.txt [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/nli_snli.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
nli snli --name SNLI \
  --paper "--models dense quaternion 2 5 10 --seeds 1 2 3 --epochs 10" \
  --published '{"dense": ["721K", 84.18], "quaternion": ["180K", 84.21],
    "2": ["361K", 84.38], "5": ["146K", 84.58], "10": ["81K", 84.40]}' "$@"
