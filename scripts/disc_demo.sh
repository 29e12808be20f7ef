#!/usr/bin/env bash
# A world of the robot lab with an open future: a disc that leaves every wall in a random direction.
# Trains the conditional VAE and its deterministic twin, samples 20 futures of each test clip and
# compares them with the true ones. slippery_demo.sh does so with OPEN_WORLD=slippery.
#   bash scripts/disc_demo.sh [RUN_FOLDER [flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
WORLD=${OPEN_WORLD:-disc}
DATA=${DATA:-$ROOT/data/$WORLD}
RUN=${1:-$ROOT/runs/$WORLD}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

[ -d "$DATA" ] || python "$ROOT/scripts/make_toy_data.py" "$DATA" --lab robot --world "$WORLD"

FLAGS=(--lab robot --DR "$DATA" --nets dcgan --vgg_width 16 --z_dim 8 --condition none
    --loss calibrated --niter 40 --epoch_size 50 --random_offset --n_eval 26 --val_every 40
    --lr_schedule cosine --ema 0.99)
# A learned prior, and a beta that ends far above 1: z encodes only what the past does not determine.
schedule "$RUN/beta.csv" 40 'beta = min(2500, 1 + 2499 * e / 36)' # 40 epochs, 0.9 of them rise
Z=(--learned_prior --schedule "$RUN/beta.csv")

python "$ROOT/Trainer.py" "${FLAGS[@]}" "${Z[@]}" --save_root "$RUN" "${@:2}"
python "$ROOT/Trainer.py" "${FLAGS[@]}" --no-latent --save_root "$RUN/twin" "${@:2}"
python "$ROOT/Tester.py" --lab robot --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/last.ckpt" \
    --twin "$RUN/twin/last.ckpt" --n_samples 20
echo "look at  $RUN/report.html"
