#!/usr/bin/env bash
# From a fresh clone to a table: installs everything into .venv (with PROMPTCLIP_NO_VENV=1 into the
# active environment), then runs base-to-new on the built-in benchmark for three methods and three
# seeds. Needs Python 3.10 to 3.13 and, for the packages that are pinned in constraints.txt, Linux or
# macOS 14; some minutes on two cores without a GPU, seconds when repeated.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_environment
install_packages emoji
protocol base2new --brief "$@" zsclip,coop,dapt emoji
