#!/usr/bin/env bash
# Cross-dataset: train on all classes of SOURCE, test on other data sets, print the table.
#
#   bash scripts/xd.sh METHOD[,METHOD...] SOURCE [SEED...] [FLAGS]      (seeds 1 2 3)
#
# Environment and flags as for base2new.sh, and TARGETS, names of data sets or paths of own
# pictures (the usual ones).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol xd ${TARGETS:+--targets "$TARGETS"} "$@"
