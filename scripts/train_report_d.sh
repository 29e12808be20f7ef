#!/usr/bin/env bash
# Report D: the posterior sees the previous frame, so it can be used at test too; the decoder is
# pre-trained with prior samples. TFR=1 starts with teacher forcing; the default is none.
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUN=${1:-runs/report_d}
TFR=${TFR:-0}
DECAY=()
[[ $TFR =~ [1-9] ]] && DECAY=(--tfr_sde 10) # above 0

python Trainer.py --DR "$DR" --save_root "$RUN" --num_epoch 100 --lr 1e-4 --lr_schedule constant \
    --posterior previous --pretrain_epochs 10 --tfr "$TFR" ${DECAY[@]+"${DECAY[@]}"} \
    --kl_anneal_type Cyclical "${@:2}"
