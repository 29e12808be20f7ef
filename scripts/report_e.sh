#!/usr/bin/env bash
# Report E: teacher forcing decays linearly from epoch 10 on, three KL types. Usage: docs/sweeps.md.
# Its line reaches 0 at epoch N = 70, one after the last, which still has 1 / (70 - 10). Not stated, so
# the course's: lr 1e-3, milestones 2 and 5, 70 epochs. Its program was not found; the steps are the
# template's: BatchNorm sees one time step at a time, which costs no speed in this lab.
source "$(dirname "$0")/queue.sh"
ALL=(--num_epoch 70 --tfr 1 --tfr_sde 11 --tfr_d_step 0.016666666666666666
    --published_step --pose_norm image --precision float32)

add Cyclical --kl_anneal_type Cyclical --kl_anneal_ratio 0.5
add Monotonic --kl_anneal_type Monotonic --kl_anneal_ratio 0.25
add None --kl_anneal_type None

published '*' "not stated"
figure tfr train/tfr '*'
figure loss_per_KL_type train/loss '*'
figure validation_loss_per_KL_type val/loss '*'
figure PSNR_per_frame psnr_per_frame '*'

sweep "$@"
