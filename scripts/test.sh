#!/usr/bin/env bash
# Style, types and tests, in the environment of quickstart.sh. Arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_environment
install_packages emoji,test
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
ruff check .
ruff format --check .
mypy
exec python -m pytest "$@" </dev/null
