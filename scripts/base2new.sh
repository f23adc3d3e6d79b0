#!/usr/bin/env bash
# Base-to-new: train on half of the classes, test on them and on the others, print the table.
#
#   bash scripts/base2new.sh METHOD[,METHOD...] DATASET [SEED...]      (seeds 1 2 3)
#
# DATASET is a file of configs/datasets, or the whole path of own pictures (docs/own-pictures.md; or
# DATA_FOLDER, then DATASET is left out). Environment: DATA, the folder that holds the data sets;
# SHOTS (16); CFG, a file of configs/trainers/<METHOD>; OUTPUT (output). Flags of `promptclip
# base2new` come last, such as --set OPTIM.MAX_EPOCH 2, --brief or --dry-run. Finished runs are not
# repeated, interrupted ones go on.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
protocol base2new "$@"
