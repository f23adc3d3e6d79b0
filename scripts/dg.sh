#!/usr/bin/env bash
# Domain generalisation: train on all classes of SOURCE, test on its variants, print the table.
#
#   bash scripts/dg.sh METHOD[,METHOD...] SOURCE [SEED...] [FLAGS]      (seeds 1 2 3)
#
# Environment and flags as for xd.sh. The training is that of xd.sh and of fewshot.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol dg ${TARGETS:+--targets "$TARGETS"} "$@"
