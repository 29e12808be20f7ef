#!/usr/bin/env bash
# Report C: three teacher-forcing ratios under three KL types (nine runs of 100 epochs), then tfr 0
# for 200 epochs under each KL type. Usage: docs/sweeps.md.
# The flags are those of its command lines; tfr decays from the default epoch 10 on. Its program
# steps after each clip of a batch of 2, and divides the KL of one clip by 2: batches of 1, half of
# its beta, which is at least 1e-6 (figures show the half). Of the course's 1,463 clips the last is
# in no batch of 2: hence --partial. BatchNorm sees one time step at a time, which costs a few
# percent of the speed; at validation and test it sees one image.
source "$(dirname "$0")/queue.sh"
KL=(None Cyclical Monotonic)
ALL=(--lr 1e-4 --batch_size 1 --partial 0.9993 --published_step
    --pose_norm image --precision float32)

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

published None/tfr1 20.62
published None/tfr0.5 20.93
published None/200 34.07
published Cyclical/tfr1 22.76
published Cyclical/tfr0.5 28.18
published Cyclical/tfr0 22.77
published Cyclical/200 26.15
published Monotonic/tfr1 26.07
published Monotonic/tfr0.5 25.91
published Monotonic/200 25.56
for column in train/loss train/mse train/kl train/tfr train/beta val/psnr; do
    figure "${column/\//_}" "$column" '*/tfr*' tfr kl_anneal_type
    figure "${column/\//_}_200" "$column" '*/200'
done
figure PSNR_per_frame psnr_per_frame '*/tfr*' tfr kl_anneal_type
figure PSNR_per_frame_200 psnr_per_frame '*/200'
figure PSNR_per_frame_200_each psnr_per_frame '*/200' kl_anneal_type kl_anneal_type

sweep "$@"
