#!/usr/bin/env bash
# Trains the small CLIP `tiny-emoji` again: bash scripts/pretrain_tiny.sh [FOLDER [--steps N]]
# About an hour on two cores. Stopped and started again, it goes on from its last checkpoint. The
# result is FOLDER/tiny-emoji.safetensors; docs/tiny-emoji.md tells the recipe.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_environment
install_packages emoji
python -m pip install --quiet "manimgx-fonts==2026.9.26.post1" "pytablericons==1.0.1" "qtawesome==1.4.2"
exec python scripts/pretrain_tiny.py "${1:-output/tiny-emoji}" "${@:2}"
