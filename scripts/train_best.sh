#!/usr/bin/env bash
# The best recipe (docs/training.md, docs/results.md).
#   DR=/path/to/dataset bash scripts/train_best.sh [RUN_FOLDER [more flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
DR=${DR:-$ROOT/../dataset}
RUN=${1:-$ROOT/runs/best}

# A GPU trains nets of the course's width, a CPU nets of a third of it.
if has_gpu; then
    SIZE=(--F_dim 128 --L_dim 64 --N_dim 12 --D_out_dim 192 --num_epoch 300)
else
    SIZE=(--F_dim 64 --L_dim 64 --N_dim 4 --D_out_dim 64 --num_epoch 40)
fi

# No teacher forcing. Short shuffled clips, half of which start from a random frame of the take, so
# that the network learns to inpaint the background. It composites the dancer over a learned static
# background; half of the clips get a foreground affine augmentation. The calibrated loss averages
# log errors, as a mean of PSNRs does. A quarter of the steps draws z from the posterior, the others
# from the prior, as at test. Free bits keep the KL above 0. A rollout has z at its mean.
exec python "$ROOT/Trainer.py" --DR "$DR" --save_root "$RUN" "${SIZE[@]}" \
    --nets unet --scene --first_frame --loss calibrated --loss_reduction mean \
    --batch_size 16 --train_vi_len 5 \
    --shuffle --jump_start 0.5 --warp 0.5 --feedback_noise 0.05 --tfr 0 \
    --posterior_share 0.25 --free_bits 2 \
    --kl_anneal_type Cyclical --kl_anneal_cycle 2 --kl_anneal_ratio 0.5 \
    --z_source mean --optim AdamW --lr 0.002 --lr_schedule cosine \
    --warmup_epochs 1 --ema 0.995 "${@:2}"
