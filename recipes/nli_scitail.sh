#!/usr/bin/env bash
# Natural language inference on SciTail: the paper's siamese LSTM, 300-d, dense,
# quaternion and PHM. Columns: premise, hypothesis, label.
#   ./recipes/nli_scitail.sh --data DIR --vectors glove.6B.300d.txt [--seeds 1 2 3 4 5]
#   ./recipes/nli_scitail.sh --help
set -euo pipefail
. "$(dirname "$0")/recipe.sh"
classify --name SciTail --arch phm_lstm_classifier \
  --models dense quaternion 2 5 10 --seeds 1 2 3 --epochs 6 \
  --flags "--text-columns 1,2 --label-column 3 --labels entails,neutral
    --word-tokenizer treebank --lowercase
    --optimizer adam --lr 4e-4 --batch-size 256" \
  --published '{"dense": ["721K", 74.36], "quaternion": ["180K", 75.58],
    "2": ["361K", 77.47], "5": ["146K", 74.64], "10": ["81K", 77.84]}' \
  "$@"
