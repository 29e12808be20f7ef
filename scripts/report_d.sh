#!/usr/bin/env bash
# Report D: the posterior sees the previous image, so it can be used at test too; the decoder is
# pre-trained with prior samples. Teacher forcing from 1 to 0 from epoch 10 on, or none, under three
# KL types; and the runs without teacher forcing once more without pre-training, as a control.
# Usage: docs/sweeps.md.
# In its cycles of C epochs beta = R * (j + 1), at most 1; None is a cycle of length 1. Its epochs
# count from 1, after the pre-training, which is teacher-forced.
# Not stated; chosen after a public program with its functions: Adam 1e-3, milestones 2 and 5, 300
# epochs, batches of 5, clip 0.1, a sigmoid, 5 epochs of pre-training, C 20, R 0.1. In that program
# beta is 1 for None, and the posterior sees the features of the previous image; it clamps mu to +-8
# and logvar to -7..9, which is not done here. BatchNorm sees one time step at a time, which costs no
# speed in this lab; its program validates with learned statistics, as is the default here.
source "$(dirname "$0")/queue.sh"
KL=(Cyclical Monotonic None)
EPOCHS=300 PRETRAINED=5
ALL=(--batch_size 5 --grad_clip 0.1 --sigmoid --posterior previous_image --feedback frame
    --published_step --precision float32)

# add_run NAME KL_TYPE TFR PRETRAINED: a run of EPOCHS epochs after those of pre-training
add_run() {
    local j="(e - $4)" epochs=$((EPOCHS + $4)) beta file
    file=$FOLDER/schedules/$(echo "$1" | tr / _).csv
    case $2 in
    Cyclical) beta="min(1, 0.1 * ($j % 20 + 1))" ;;
    Monotonic) beta="min(1, 0.1 * ($j + 1))" ;;
    None) beta=0.1 ;;
    esac
    schedule "$file" $epochs "beta = $beta if $j >= 0 else 0" \
        "tfr = max(0, $3 - 0.1 * max(0, $j - 8)) if $j >= 0 else 1" \
        "lr = 1e-3 * 0.1 ** (($j >= 2) + ($j >= 5))"
    add "$1" --num_epoch $epochs --pretrain_epochs "$4" --schedule "$file" \
        --kl_anneal_type "$2" --tfr "$3"
}
for kl in "${KL[@]}"; do
    add_run "$kl/tfr0" "$kl" 0 $PRETRAINED
    add_run "$kl/tfr1" "$kl" 1 $PRETRAINED
    add_run "no_pretraining/$kl" "$kl" 0 0
done

published '*/tfr0' "much better than tfr 1"
published '*/tfr1' "much worse than tfr 0"
for column in train/tfr train/beta train/loss val/loss train/kl; do
    figure "${column/\//_}" "$column" '*/tfr*' tfr kl_anneal_type
done
figure PSNR_per_frame psnr_per_frame '*/tfr*' tfr kl_anneal_type
figure PSNR_per_frame_pretraining psnr_per_frame '*/tfr0,no_pretraining/*' pretrain_epochs \
    kl_anneal_type

sweep "$@"
