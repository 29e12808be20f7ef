#!/usr/bin/env bash
# Report E: teacher forcing decays linearly from epoch 10 to 0 at the last epoch, three KL types.
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUNS=${1:-runs/report_e}
MORE=("${@:2}") # flags for every run

train() { # train RUN_FOLDER FLAGS...
    python Trainer.py --DR "$DR" --save_root "$RUNS/$1" --num_epoch 100 --lr 1e-4 \
        --lr_schedule constant --tfr 1 --tfr_mode linear --tfr_sde 10 \
        "${@:2}" ${MORE[@]+"${MORE[@]}"}
}

train Cyclical --kl_anneal_type Cyclical --kl_anneal_ratio 0.5
train Monotonic --kl_anneal_type Monotonic --kl_anneal_ratio 0.25
train None --kl_anneal_type None
