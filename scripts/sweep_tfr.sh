#!/usr/bin/env bash
# Teacher forcing: ratios that decay from epoch 20 or stay, all else equal. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
TFR=(1 0.5)
# flags of every run
ALL=(--num_epoch 100 --lr 1e-4 --lr_schedule constant --kl_anneal_type None)

add tfr0 --tfr 0
for tfr in "${TFR[@]}"; do
    add "tfr$tfr" --tfr "$tfr" --tfr_sde 20 --tfr_d_step 0.05
    add "tfr${tfr}_constant" --tfr "$tfr" --tfr_d_step 0
done

sweep "$@"
