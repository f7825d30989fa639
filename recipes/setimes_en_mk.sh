#!/usr/bin/env bash
# SETimes English-Macedonian, news; the paper's splits are not known.
# The paper's Transformer, dense, quaternion and PHM; --wide for its dagger rows.
#   ./recipes/setimes_en_mk.sh --size paper [--raw DIR] [--wide] [--seeds 1 2 3] [--fp16]
#   ./recipes/setimes_en_mk.sh --size small --models dense 4
#   ./recipes/setimes_en_mk.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe translation setimes-en-mk "$@"
