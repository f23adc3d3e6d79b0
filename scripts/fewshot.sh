#!/usr/bin/env bash
# Few-shot: train and test on all classes with several numbers of pictures, print the table.
#
#   bash scripts/fewshot.sh METHOD[,METHOD...] DATASET [SEED...] [FLAGS]      (seeds 1 2 3)
#
# Environment and flags as for base2new.sh, but SHOTS is a list ("1 2 4 8 16").
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol fewshot "$@"
