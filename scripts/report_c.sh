#!/usr/bin/env bash
# Report C: three teacher-forcing ratios under three KL types (nine runs of 100 epochs), then tfr 0
# for 200 epochs under each KL type. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
KL=(None Cyclical Monotonic)
TFR=(1 0.5 0)
ALL=(--lr 1e-4 --lr_schedule constant --kl_anneal_floor 1e-6)
COMPARE=(--panel_by kl_anneal_type)

for kl in "${KL[@]}"; do
    for tfr in "${TFR[@]}"; do
        add "$kl/tfr$tfr" --num_epoch 100 --kl_anneal_type "$kl" \
            --tfr "$tfr" --tfr_sde 20 --tfr_d_step 0.05
    done
    add "$kl/200" --num_epoch 200 --kl_anneal_type "$kl" --kl_anneal_ratio 0.5 --tfr 0
done

REPORT=(--published 'None/*' 34 --published 'Cyclical/*' 25-26 --published 'Monotonic/*' 25-26
    --figure train_loss compare/loss.png --figure MSE compare/mse.png --figure KL compare/kl.png
    --figure tfr compare/tfr.png --figure beta compare/beta.png
    --figure validation_PSNR compare/psnr.png)

sweep runs/report_c "$@"
