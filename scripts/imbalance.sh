#!/usr/bin/env bash
# Class imbalance: train and test on all classes, some of which are rare in training, print the table.
#
#   bash scripts/imbalance.sh METHOD[,METHOD...] DATASET [SEED...] [FLAGS]      (seeds 1 2 3)
#
# Environment and flags as for base2new.sh, and RATIOS, of the rarest class's training pictures to
# the most frequent one's ("1 0.25 0.06"). The training with 1 is that of fewshot.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol imbalance ${RATIOS:+--ratios "$RATIOS"} "$@"
