#!/usr/bin/env bash
# Report C: three teacher-forcing ratios under three KL types (nine runs of 100 epochs), then tfr 0
# for 200 epochs under each KL type. Usage: docs/sweeps.md.
# The flags are those of its command lines; tfr decays from epoch 20 on, as it states. Its program
# steps after each clip of a batch of 2, and divides the KL of one clip by 2: batches of 1, and half
# of its beta and of its floor of 1e-6.
source "$(dirname "$0")/queue.sh"
KL=(None Cyclical Monotonic)
ALL=(--lr 1e-4 --kl_anneal_ratio 0.5 --batch_size 1 --kl_anneal_stop 0.5 --kl_anneal_floor 5e-7)
COMPARE=(--panel_by kl_anneal_type)

for kl in "${KL[@]}"; do
    add "$kl/tfr1" --num_epoch 100 --kl_anneal_type "$kl" --tfr 1 --tfr_sde 20
    add "$kl/tfr0.5" --num_epoch 100 --kl_anneal_type "$kl" --tfr 0.5 --tfr_sde 20 --tfr_d_step 0.05
    add "$kl/tfr0" --num_epoch 100 --kl_anneal_type "$kl" --tfr 0
    add "$kl/200" --num_epoch 200 --kl_anneal_type "$kl" --tfr 0
done

REPORT=(--published 'None/*' 34 --published 'Cyclical/*' 25-26 --published 'Monotonic/*' 25-26
    --figure train_loss compare/loss.png --figure MSE compare/mse.png --figure KL compare/kl.png
    --figure tfr compare/tfr.png --figure beta compare/beta.png
    --figure validation_PSNR compare/psnr.png)

sweep runs/report_c "$@"
