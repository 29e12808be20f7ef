#!/usr/bin/env bash
# Ablation study: parts of the best recipe added and left out. --DR /path/to/dataset is required.
# All arms take hours on two CPU cores; select fewer with --arms, --seeds and --steps.
source "$(dirname "$0")/setup.sh"
exec python "$ROOT/scripts/ablate.py" --runs "$ROOT/runs/ablate" "$@"
