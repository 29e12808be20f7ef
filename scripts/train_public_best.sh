#!/usr/bin/env bash
# The recipe of the best public score: no teacher forcing, beta 1, gradients through every step.
#   DR=/path/to/dataset bash scripts/train_public_best.sh [RUN_FOLDER [more flags of Trainer.py]]
# EPOCHS=100 in front changes the length: the learning rates are in RUN_FOLDER/lr.csv.
source "$(dirname "$0")/setup.sh"
DR=${DR:-$ROOT/../dataset}
RUN=${1:-$ROOT/runs/public_best}

EPOCHS=${EPOCHS:-300}

# the cosine of its program would reach 1e-6 in the epoch after the last
schedule "$RUN/lr.csv" "$EPOCHS" "lr = 1e-6 + (1e-4 - 1e-6) / 2 * (1 + cos(pi * e / $EPOCHS))"
exec python "$ROOT/Trainer.py" --DR "$DR" --save_root "$RUN" --num_epoch "$EPOCHS" --batch_size 4 \
    --schedule "$RUN/lr.csv" --tfr 0 --kl_anneal_type None "${@:2}"
