#!/usr/bin/env bash
# Style, types and tests, in the environment of quickstart.sh. Arguments go to pytest.
#
#   bash scripts/test.sh         without the slow tests
#   bash scripts/test.sh --all   all of them, as continuous integration runs them
#   bash scripts/test.sh -n 0    in one process (else in as many as there are cores)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
if [ "${1:-}" = --all ]; then shift; else set -- -m "not slow" "$@"; fi
use_environment
install_packages docs,emoji,test
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
ruff check .
ruff format --check .
mypy
exec python -m pytest -n auto --dist worksteal "$@" </dev/null
