#!/usr/bin/env bash
# Report D: the posterior sees the previous frame, so it can be used at test too; the decoder is
# pre-trained with prior samples. Teacher forcing from 1 to 0 from epoch 10 on, or none, under three
# KL types. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
KL=(Cyclical Monotonic None)
TFR=(${TFR:-0 1}) # TFR=0.5 in front of the command: that one
ALL=(--num_epoch 100 --lr 1e-4 --lr_schedule constant --posterior previous --pretrain_epochs 10)

for kl in "${KL[@]}"; do
    for tfr in "${TFR[@]}"; do
        add "$kl/tfr$tfr" --kl_anneal_type "$kl" --tfr "$tfr"
    done
    REPORT+=(--published "$kl/tfr0" "much better than tfr 1"
        --published "$kl/tfr1" "much worse than tfr 0")
done

sweep runs/report_d "$@"
