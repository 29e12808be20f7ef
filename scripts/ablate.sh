#!/usr/bin/env bash
# What each means is worth, by itself and left out: bash scripts/ablate.sh --DR /path/to/dataset
# Without flags it takes hours on two CPU cores; --arms, --seeds and --steps choose less.
source "$(dirname "$0")/setup.sh"
exec python scripts/ablate.py "$@"
