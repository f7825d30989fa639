#!/usr/bin/env bash
# IWSLT'14 German-English, TED talks: every 23rd pair is held out for validation.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt14_de_en.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt14_de_en.sh --size small --models dense 4
#   ./recipes/iwslt14_de_en.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation iwslt14-de-en "$@"
