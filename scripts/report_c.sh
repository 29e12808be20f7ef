#!/usr/bin/env bash
# Report C: three teacher-forcing ratios under three KL types (nine runs of 100 epochs), then tfr 0
# for 200 epochs under each KL type. Usage: docs/sweeps.md.
# The flags are those of its command lines; tfr decays from the default epoch 10 on. Its program
# steps after each clip of a batch of 2, and divides the KL of one clip by 2: batches of 1, half of
# its beta, which is at least 1e-6. Of the course's 1,463 clips the last is in no batch of 2: hence
# --partial. BatchNorm sees one time step at a time, which costs a few percent of the speed; at
# validation and test it sees one image.
source "$(dirname "$0")/queue.sh"
KL=(None Cyclical Monotonic)
ALL=(--lr 1e-4 --batch_size 1 --partial 0.9993 --no-feedback_clamp --norm_over step --pose_norm image)

for kl in "${KL[@]}"; do
    for epochs in 100 200; do
        case $kl in
        None) beta=1 ;;
        Cyclical) beta="min(max(1e-6, e % ($epochs // 10) / ($epochs * 0.05)), 1)" ;;
        Monotonic) beta="min(max(1e-6, e / ($epochs * 0.5)), 1)" ;;
        esac
        schedule "$FOLDER/$kl$epochs.csv" "$epochs" "beta = $beta / 2"
    done
    add "$kl/tfr1" --num_epoch 100 --schedule "$FOLDER/${kl}100.csv" --kl_anneal_type "$kl" --tfr 1
    add "$kl/tfr0.5" --num_epoch 100 --schedule "$FOLDER/${kl}100.csv" --kl_anneal_type "$kl" \
        --tfr 0.5 --tfr_d_step 0.05
    add "$kl/tfr0" --num_epoch 100 --schedule "$FOLDER/${kl}100.csv" --kl_anneal_type "$kl" --tfr 0
    add "$kl/200" --num_epoch 200 --schedule "$FOLDER/${kl}200.csv" --kl_anneal_type "$kl" --tfr 0
done

COMPARE=(--panel_by kl_anneal_type)

REPORT=(--published 'None/*' 34 --published 'Cyclical/*' 25-26 --published 'Monotonic/*' 25-26
    --figure train_loss compare/loss.png --figure MSE compare/mse.png --figure KL compare/kl.png
    --figure tfr compare/tfr.png --figure beta compare/beta.png
    --figure validation_PSNR compare/psnr.png)

sweep "$@"
