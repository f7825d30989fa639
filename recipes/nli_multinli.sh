#!/usr/bin/env bash
# Natural language inference on MultiNLI: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. The labels of its two test sets are not public: the matched
# development set chooses the checkpoint, the mismatched one is the test set, and the
# published figures here are those of the mismatched one.
#   ./recipes/nli_multinli.sh --vectors glove.6B.300d.txt [--raw DIR] [--seeds 1 2 3]
#   ./recipes/nli_multinli.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification multinli "$@"
