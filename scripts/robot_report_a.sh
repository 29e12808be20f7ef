#!/usr/bin/env bash
# Report A: 100 epochs of 500 batches of 24, teacher forcing 1 until epoch 25, then linearly to 0;
# one run with monotonic, one with cyclical KL annealing (two cycles).
source "$(dirname "$0")/setup.sh"
DR=${DR:-../processed_data}
RUNS=${1:-runs/report_a}
MORE=("${@:2}") # flags for every run

train() { # train RUN_FOLDER FLAGS...
    python Trainer.py --lab robot --DR "$DR" --save_root "$RUNS/$1" --niter 100 --epoch_size 500 \
        --batch_size 24 --lr 0.002 --tfr_start_decay_epoch 25 --tfr_mode linear \
        "${@:2}" ${MORE[@]+"${MORE[@]}"}
    python Tester.py --DR "$DR" --save_root "$RUNS/$1" --ckpt_path "$RUNS/$1/best_score.ckpt"
}

train monotonic
train cyclical --kl_anneal_cyclical --kl_anneal_cycle 2
