#!/usr/bin/env bash
# The first half of base2new.sh: bash scripts/base2new_train.sh METHOD DATASET SEED
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol base2new --part train "$@"
