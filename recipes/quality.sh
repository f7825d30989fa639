#!/usr/bin/env bash
# Quality against parameters and time: dense, quaternion and PHM models, each at its best
# of the same learning rates, for as many updates and for as much time as the dense one.
#   ./recipes/quality.sh                                    demo corpus, English to German
#   ./recipes/quality.sh --raw DIR --src en --tgt vi --size small --jobs 2
#   ./recipes/quality.sh --models dense 4 4r4 dense/4 --lrs 2e-3 4e-3 8e-3 --seeds 1 2 3
#   ./recipes/quality.sh --report runs/quality-cldr         tables and figures once more
#   ./recipes/quality.sh --help
set -euo pipefail
. "$(dirname "$0")/driver/recipe.sh"
recipe quality "$@"
