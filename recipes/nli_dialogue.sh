#!/usr/bin/env bash
# DialogueNLI, whether two utterances and facts agree: the paper's siamese LSTM, 300-d,
# dense, quaternion and PHM. There is no download.
#   ./recipes/nli_dialogue.sh --raw DIR --vectors glove.6B.300d.txt [--seeds 1 2 3 4 5]
#   ./recipes/nli_dialogue.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
nli dialogue-nli --name DialogueNLI \
  --paper "--models dense quaternion 2 5 10 --seeds 1 2 3 --epochs 10" \
  --published '{"dense": ["721K", 85.16], "quaternion": ["180K", 86.45],
    "2": ["361K", 85.77], "5": ["146K", 86.47], "10": ["81K", 86.21]}' "$@"
