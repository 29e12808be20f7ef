#!/usr/bin/env bash
# Report B: AdamW, cosine, 400 epochs, a sigmoid, previous features detached. Without and with
# teacher forcing under three KL types, and one run without the sigmoid. Cyclical/tfr0 is the run
# that it recommends. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
TFR=(0 1) # 1 decays from epoch 10
ALL=(--num_epoch 400 --batch_size 2 --optim AdamW --lr 3e-4 --lr_schedule cosine --sigmoid
    --feedback features)
COMPARE=(--group_by tfr) # mean and deviation over the KL types
CYCLES=(--kl_anneal_type Cyclical --kl_anneal_cycle 40 --kl_anneal_ratio 0.5 --kl_anneal_start 0.1)

for tfr in "${TFR[@]}"; do
    add "Cyclical/tfr$tfr" --tfr "$tfr" "${CYCLES[@]}"
    add "Monotonic/tfr$tfr" --tfr "$tfr" --kl_anneal_type Monotonic --kl_anneal_ratio 0.5 \
        --kl_anneal_start 0.1
    add "None/tfr$tfr" --tfr "$tfr" --kl_anneal_type None
done
add no_sigmoid --tfr 0 "${CYCLES[@]}" --no-sigmoid

REPORT=(--published Cyclical/tfr0 "36-37; 39 on validation, with z from the true frame"
    --published '*/tfr1' 30-35 --published no_sigmoid 33
    --figure beta compare/beta.png --figure tfr compare/tfr.png --figure loss compare/loss.png
    --figure MSE compare/mse.png --figure KL compare/kl.png
    --figure PSNR_per_frame compare/psnr_per_frame.png)

sweep runs/report_b "$@"
