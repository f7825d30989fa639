#!/usr/bin/env bash
# IWSLT'15 English-Vietnamese, TED talks: 133k pairs, tst2012 and tst2013.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt15_en_vi.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt15_en_vi.sh --size small --models dense 4
#   ./recipes/iwslt15_en_vi.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation iwslt15-en-vi "$@"
