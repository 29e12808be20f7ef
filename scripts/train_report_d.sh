#!/usr/bin/env bash
# Report D: the posterior looks at the previous frame, so it serves at test too; the decoder is
# trained alone first, with z from N(0, I); TFR=1 starts with teacher forcing instead of without.
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUN=${1:-runs/report_d}
TFR=${TFR:-0}

python Trainer.py --DR "$DR" --save_root "$RUN" --num_epoch 100 --lr 1e-4 --lr_schedule constant \
    --posterior previous --pretrain_epochs 10 --tfr "$TFR" --tfr_sde 10 --kl_anneal_type Cyclical \
    "${@:2}"
