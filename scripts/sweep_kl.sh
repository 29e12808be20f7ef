#!/usr/bin/env bash
# KL annealing: every type at every number of cycles, all else equal. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
CYCLES=(2 10)
# flags of every run
ALL=(--num_epoch 100 --lr 1e-4 --lr_schedule constant --tfr 0)

add None --kl_anneal_type None
add Monotonic --kl_anneal_type Monotonic --kl_anneal_ratio 0.5
for cycles in "${CYCLES[@]}"; do
    add "Cyclical$cycles" --kl_anneal_type Cyclical --kl_anneal_cycle "$cycles" \
        --kl_anneal_ratio 0.5
done

sweep "$@"
