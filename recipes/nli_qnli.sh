#!/usr/bin/env bash
# The paper's QNLI, which is question pairs of Quora, the same question or not: the
# paper's siamese LSTM, 300-d, dense, quaternion and PHM. There is no download.
#   ./recipes/nli_qnli.sh --raw DIR --vectors glove.6B.300d.txt [--seeds 1 2 3 4 5]
#   ./recipes/nli_qnli.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification qnli-quora "$@"
