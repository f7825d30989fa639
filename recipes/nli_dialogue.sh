#!/usr/bin/env bash
# DialogueNLI, whether two utterances and facts agree: the paper's siamese LSTM, 300-d,
# dense, quaternion and PHM. There is no download.
#   ./recipes/nli_dialogue.sh --raw DIR --vectors glove.6B.300d.txt [--seeds 1 2 3 4 5]
#   ./recipes/nli_dialogue.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification dialogue-nli "$@"
