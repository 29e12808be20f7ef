#!/usr/bin/env bash
# Report D: the posterior sees the previous frame, so it can be used at test too; the decoder is
# pre-trained with prior samples. Teacher forcing from 1 to 0 from epoch 10 on, or none, under three
# KL types. Usage: docs/sweeps.md.
# Its program takes --kl_anneal_ratio for the rise of beta in an epoch: at the template's 1, beta is 1
# throughout, which is a ramp of length 0 here. Its epochs count from 1, after the pre-training.
source "$(dirname "$0")/queue.sh"
KL=(Cyclical Monotonic None)
TFR=(${TFR:-0 1}) # TFR=0.5 in front of the command: that one
ALL=(--num_epoch 100 --lr 1e-4 --lr_schedule constant --posterior previous
    --feedback frame --pretrain_epochs 10 --pretrain_tfr 1 --tfr_sde 19 --kl_anneal_ratio 0)

for kl in "${KL[@]}"; do
    for tfr in "${TFR[@]}"; do
        add "$kl/tfr$tfr" --kl_anneal_type "$kl" --tfr "$tfr"
    done
    REPORT+=(--published "$kl/tfr0" "much better than tfr 1"
        --published "$kl/tfr1" "much worse than tfr 0")
done

sweep runs/report_d "$@"
