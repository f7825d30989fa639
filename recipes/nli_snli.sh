#!/usr/bin/env bash
# Natural language inference on SNLI: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. The paper does not say how long it trains: 10 epochs here.
#   ./recipes/nli_snli.sh --vectors glove.6B.300d.txt [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/nli_snli.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification snli "$@"
