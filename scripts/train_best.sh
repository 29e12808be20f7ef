#!/usr/bin/env bash
# The recipe that does not drift (README: "Strategies", "Results"). On 2,500 frames about a quarter
# of an hour of one CPU core.
#   DR=/path/to/dataset bash scripts/train_best.sh [RUN_FOLDER] [more flags of Trainer.py]
source "$(dirname "$0")/setup.sh"
DR=${DR:-../dataset}
RUN=${1:-runs/best}

# A GPU trains nets as wide as the course's; a CPU those of a third.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    SIZE=(--F_dim 128 --L_dim 64 --N_dim 12 --D_out_dim 192 --num_epoch 300)
else
    SIZE=(--F_dim 64 --L_dim 64 --N_dim 4 --D_out_dim 64 --num_epoch 40)
fi

# No teacher forcing. Short shuffled clips, half of which start from a far-away frame, so that the
# net must uncover background. A still scene is learned once, and the net draws before it; half of
# the dancers are moved, stretched and leaned. Every frame's error counts by its logarithm, as PSNR
# counts it. z is drawn from the prior throughout, its mean at test.
FLAGS=(--DR "$DR" --save_root "$RUN" "${SIZE[@]}"
    --nets unet --scene --first_frame --loss calibrated --batch_size 16 --train_vi_len 5
    --shuffle --random_offset --jump_start 0.5 --warp 0.5 --feedback_noise 0.05 --tfr 0
    --pretrain_epochs 100000 --z_source mean --optim AdamW --lr 0.002 --lr_schedule cosine
    --warmup_epochs 1 --ema 0.995 "${@:2}")

python scripts/estimate.py "${FLAGS[@]}"
python Trainer.py "${FLAGS[@]}"
