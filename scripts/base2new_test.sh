#!/usr/bin/env bash
# The second half of base2new.sh: bash scripts/base2new_test.sh METHOD DATASET SEED
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol base2new --part test "$@"
