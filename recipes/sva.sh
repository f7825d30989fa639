#!/usr/bin/env bash
# Subject-verb agreement: the number of the verb from the words before it, by a
# Transformer encoder of 2 layers, dense, quaternion and PHM. Columns: prefix, label,
# attractors (nouns of the other number between subject and verb).
#   ./recipes/sva.sh [--raw DIR] [--seeds 1 2 3 4 5]
#   ./recipes/sva.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe classification linzen "$@"
