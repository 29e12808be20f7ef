#!/usr/bin/env bash
# Report C: three teacher-forcing ratios under three KL types (nine runs of 100 epochs), then tfr 0
# for 200 epochs under each KL type. An interrupted sweep resumes.
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUNS=${1:-runs/report_c}
MORE=("${@:2}") # flags for every run

train() { # train RUN_FOLDER FLAGS...
    python Trainer.py --DR "$DR" --save_root "$RUNS/$1" --lr 1e-4 --lr_schedule constant \
        --kl_anneal_floor 1e-6 "${@:2}" ${MORE[@]+"${MORE[@]}"}
}

for kl in None Cyclical Monotonic; do
    for tfr in 1 0.5 0; do
        train "$kl/tfr$tfr" --num_epoch 100 --kl_anneal_type $kl \
            --tfr $tfr --tfr_sde 20 --tfr_d_step 0.05
    done
    train "$kl/200" --num_epoch 200 --kl_anneal_type $kl --kl_anneal_ratio 0.5 --tfr 0
done
