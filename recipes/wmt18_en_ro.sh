#!/usr/bin/env bash
# WMT English-Romanian: Europarl and SETimes, newsdev and newstest 2016.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/wmt18_en_ro.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/wmt18_en_ro.sh --size small --models dense 4
#   ./recipes/wmt18_en_ro.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation wmt18-en-ro "$@"
