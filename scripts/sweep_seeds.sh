#!/usr/bin/env bash
# The best public recipe with several seeds: its spread. Usage: docs/sweeps.md.
source "$(dirname "$0")/queue.sh"
SEEDS=(0 1 2)
schedule "$FOLDER/lr.csv" 300 'lr = 1e-6 + (1e-4 - 1e-6) / 2 * (1 + cos(pi * e / 300))'
# flags of every run
ALL=(--num_epoch 300 --batch_size 4 --schedule "$FOLDER/lr.csv" --tfr 0
    --kl_anneal_type None)

for seed in "${SEEDS[@]}"; do
    add "seed$seed" --seed "$seed"
done

sweep "$@"
