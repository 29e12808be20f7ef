#!/usr/bin/env bash
# The course's defaults: 70 epochs, teacher forcing decays from 1, ten KL cycles.
#   DR=/path/to/dataset bash scripts/train_template.sh [RUN_FOLDER [more flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
DR=${DR:-$ROOT/../dataset}
RUN=${1:-$ROOT/runs/template}

exec python "$ROOT/Trainer.py" --DR "$DR" --save_root "$RUN" "${@:2}"
