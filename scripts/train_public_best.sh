#!/usr/bin/env bash
# The recipe of the best public score: no teacher forcing, beta 1, gradients through every step.
#   DR=/path/to/dataset bash scripts/train_public_best.sh [RUN_FOLDER [more flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
DR=${DR:-$ROOT/../dataset}
RUN=${1:-$ROOT/runs/public_best}

python "$ROOT/Trainer.py" --DR "$DR" --save_root "$RUN" --num_epoch 300 --batch_size 4 \
    --lr 1e-4 --lr_schedule cosine --lr_min 1e-6 --tfr 0 --kl_anneal_type None "${@:2}"
