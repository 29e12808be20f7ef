#!/usr/bin/env bash
# Report B: AdamW, cosine, 400 epochs, a sigmoid, previous features detached. Without and with
# teacher forcing under three KL types, and one run without the sigmoid. Cyclical/tfr0 is the run
# that it recommends. Usage: docs/sweeps.md.
# Its program: a ramp of n epochs is linspace(0.1, 1, n), which reaches 1 after n - 1 of them, 4 of a
# cycle's 10 and 199 of 400; its cosine ends at epoch 400, one after the last. It divides the loss
# by the batch size. BatchNorm sees one time step at a time, which costs no speed in this lab;
# at validation and test it sees one image.
source "$(dirname "$0")/queue.sh"
TFR=(0 1) # 1 decays from epoch 10
LR='lr = 3e-4 / 2 * (1 + cos(pi * e / 400))'
schedule "$FOLDER/Cyclical.csv" 400 "$LR" 'beta = min(1, 0.1 + 0.9 * (e % 10) / 4)'
schedule "$FOLDER/Monotonic.csv" 400 "$LR" 'beta = min(1, 0.1 + 0.9 * e / 199)'
schedule "$FOLDER/None.csv" 400 "$LR" 'beta = 1'
ALL=(--num_epoch 400 --batch_size 2 --optim AdamW --loss_reduction batch --feedback features
    --published_step --pose_norm image --precision float32)

add_run() { # add_run NAME KL_TYPE FLAGS...
    add "$1" --kl_anneal_type "$2" --schedule "$FOLDER/$2.csv" "${@:3}"
}
for tfr in "${TFR[@]}"; do
    for kl in Cyclical Monotonic None; do
        add_run "$kl/tfr$tfr" "$kl" --sigmoid --tfr "$tfr"
    done
done
add_run no_sigmoid Cyclical --tfr 0

# The report's validation loss is the sum over the rollout of MSE + beta KL, with z from the true
# frame; val/mse_sum is the sum of the MSE, with z from the prior; val/loss is teacher-forced.
published Cyclical/tfr0 "36-37; 39 on validation; validation loss 0.14"
published '*/tfr0' "36-37; validation loss 0.14"
published '*/tfr1' 30-35
published no_sigmoid 33
figure Figure_1_beta train/beta '*/tfr0'
figure Figure_2_tfr train/tfr '*/tfr?' tfr
figure Table_1_training_loss train/loss '*/tfr?' tfr
figure Table_1_validation_loss val/mse_sum '*/tfr?' tfr
figure Table_1_validation_loss_teacher_forced val/loss '*/tfr?' tfr
table Table_1 '*/tfr?' tfr train/loss val/mse_sum val/loss
table losses_per_KL_type '*/tfr?' kl_anneal_type train/loss val/mse_sum val/loss
figure Figure_3_beta train/beta '*/tfr0'
figure Figure_3_training_loss train/loss '*/tfr0'
figure Figure_3_validation_loss val/mse_sum '*/tfr0'
figure Figure_3_validation_loss_teacher_forced val/loss '*/tfr0'
figure Figure_4_PSNR_per_frame psnr_per_frame Cyclical/tfr0

sweep "$@"
