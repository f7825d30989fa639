#!/usr/bin/env bash
# IWSLT'17 English-Indonesian, TED talks; dev2010 and tst2010, tst2017plus.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/iwslt17_en_id.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/iwslt17_en_id.sh --size small --models dense 4
#   ./recipes/iwslt17_en_id.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation iwslt17-en-id "$@"
