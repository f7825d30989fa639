#!/usr/bin/env bash
# Speed, as the paper's Table 3: seconds per 100 updates and to translate test sentences,
# untrained models in turn on the same batches.
#   ./recipes/speed.sh                                      demo corpus, English to German
#   ./recipes/speed.sh iwslt14-de-en --size paper [--raw DIR] [--fp16]
#   ./recipes/speed.sh --raw DIR --src de --tgt en --models dense 4 8 4r4 8r8 --cpu
#   ./recipes/speed.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe speed "$@"
