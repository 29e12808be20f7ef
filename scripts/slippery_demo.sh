#!/usr/bin/env bash
# disc_demo.sh in the slippery world: an arm pushes a puck, which slides off in a random direction.
# The actions determine when it is pushed, not where to.
#   bash scripts/slippery_demo.sh [RUN_FOLDER [flags of Trainer.py]]
OPEN_WORLD=slippery exec bash "$(dirname "$0")/disc_demo.sh" "${1:-}" \
    --condition current --standardise "${@:2}"
