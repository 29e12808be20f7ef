#!/usr/bin/env bash
# A world with an open future: lamps that the poses do not show. Trains the conditional VAE and its
# deterministic twin, samples 20 futures of each test clip and compares them with the true ones.
#   bash scripts/lamps_demo.sh [RUN_FOLDER [flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
DATA=${DATA:-$ROOT/data/lamps}
RUN=${1:-$ROOT/runs/lamps}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[ -d "$DATA" ] || python "$ROOT/scripts/make_toy_data.py" "$DATA" --world lamps --test_clips 8

# The short demo's nets, with few jump starts: across a jump every lamp may have toggled, so with many
# the prior expects too many toggles; without any, the background behind the dancer is not learned.
# One variance for the batch, and a beta that stays small for long: z learns the rare toggles. A large
# beta in the end leaves only them to z, one vector for each 4 x 4 features.
FLAGS=(--DR "$DATA" --nets unet --scene --first_frame --F_dim 16 --L_dim 32 --N_dim 4 --D_out_dim 32
    --loss calibrated_batch --loss_reduction mean --batch_size 4 --train_vi_len 3 --shuffle
    --jump_start 0.05 --feedback_noise 0.05 --tfr 0 --optim AdamW --lr 0.005 --lr_schedule cosine
    --lr_min 0.0002 --warmup_epochs 1 --ema 0.98 --num_epoch 24 --val_every 24)
schedule "$RUN/beta.csv" 24 'beta = 1000 ** min(1, e / 21.6)' # 24 epochs, 0.9 of them rise
Z=(--learned_prior --z_grid coarse --schedule "$RUN/beta.csv")

python "$ROOT/Trainer.py" "${FLAGS[@]}" "${Z[@]}" --save_root "$RUN" "${@:2}"
python "$ROOT/Trainer.py" "${FLAGS[@]}" --no-latent --save_root "$RUN/twin" "${@:2}"
python "$ROOT/Tester.py" --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/last.ckpt" \
    --twin "$RUN/twin/last.ckpt" --n_samples 20 --val_vi_len 31
echo "look at  $RUN/report.html"
