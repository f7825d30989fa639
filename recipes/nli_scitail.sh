#!/usr/bin/env bash
# Natural language inference on SciTail: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. Columns: premise, hypothesis, label.
#   ./recipes/nli_scitail.sh --vectors glove.6B.300d.txt [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/nli_scitail.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification scitail "$@"
