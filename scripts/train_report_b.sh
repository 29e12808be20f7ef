#!/usr/bin/env bash
# Report B: no teacher forcing, 40 KL cycles from 0.1, a sigmoid, previous features detached.
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUN=${1:-runs/report_b}

python Trainer.py --DR "$DR" --save_root "$RUN" --num_epoch 400 --batch_size 2 \
    --optim AdamW --lr 3e-4 --lr_schedule cosine --tfr 0 --sigmoid --feedback features \
    --kl_anneal_type Cyclical --kl_anneal_cycle 40 --kl_anneal_ratio 0.5 --kl_anneal_start 0.1 \
    "${@:2}"
