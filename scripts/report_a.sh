#!/usr/bin/env bash
# Report A: 100 epochs of 500 batches of 24, teacher forcing 1 until epoch 25, then linearly to 0;
# one run with monotonic, one with cyclical KL annealing (two cycles). Usage: docs/sweeps.md.
# Its program conditions on row t-1, takes the skip connections of frame 0, minimises the sum over a
# clip's frames, and sets tfr to 1 - (epoch - 25) / (100 - 25) after an epoch: the line begins and
# ends one epoch later, with 2 / 75 left in the last one. Its monotonic ramp takes a quarter of the
# epochs, a cyclical one half of a cycle. Its BatchNorm sees one time step at a time
# (--published_step): a step takes 3.9 times as long with teacher forcing, 1.2 times without
# (docs/speed.md). It computes in float32 (--precision float32), and validates every fifth epoch, not every one.
source "$(dirname "$0")/queue.sh"
DR=${DR:-$ROOT/../processed_data}
ALL=(--lab robot --niter 100 --epoch_size 500 --batch_size 24 --lr 0.002
    --condition previous --skip_from second_last --loss_reduction sum --published_step
    --tfr_sde 27 --tfr_d_step 0.013333333333333334 --precision float32)

add monotonic --kl_anneal_ratio 0.25
add cyclical --kl_anneal_cyclical --kl_anneal_cycle 2

published monotonic 26.10
published cyclical 26.25
figure loss train/loss '*'
figure KL train/kl '*'
figure PSNR val/psnr '*'
figure tfr train/tfr '*'
figure beta train/beta '*'
for run in monotonic cyclical; do
    copy "$run" "$run/pred_seq0.gif"
    copy "${run}_per_step" "$run/strip0.png"
done

sweep "$@"
