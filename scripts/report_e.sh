#!/usr/bin/env bash
# Report E: teacher forcing decays linearly from epoch 10 on, three KL types. Usage: docs/sweeps.md.
# Its program's line ends at epoch 100, one after the last.
source "$(dirname "$0")/queue.sh"
ALL=(--num_epoch 100 --lr 1e-4 --lr_schedule constant --tfr 1 --tfr_mode linear --tfr_sde 10
    --tfr_end 100)

add Cyclical --kl_anneal_type Cyclical --kl_anneal_ratio 0.5
add Monotonic --kl_anneal_type Monotonic --kl_anneal_ratio 0.25
add None --kl_anneal_type None

REPORT=(--published '*' "no score is stated" --figure tfr compare/tfr.png
    --figure loss_per_KL_type compare/loss.png
    --figure PSNR_per_frame compare/psnr_per_frame.png)

sweep runs/report_e "$@"
