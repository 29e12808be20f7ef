#!/usr/bin/env bash
# Stochastic moving MNIST with scikit-learn's digits (it is installed): 5 given frames, 20
# predicted ones, best of 100 futures beside a deterministic twin. For MNIST's digits first run
#   python scripts/make_toy_data.py data/digits --lab robot --world digits --train_clips 2048 --digits FILE
#   bash scripts/digits_demo.sh [RUN_FOLDER [flags of Trainer.py]]
source "$(dirname "$0")/setup.sh"
DATA=${DATA:-$ROOT/data/digits}
RUN=${1:-$ROOT/runs/digits}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ ! -d "$DATA" ]; then
    pip install --quiet --disable-pip-version-check scikit-learn || true # else the next line says so
    python "$ROOT/scripts/make_toy_data.py" "$DATA" --lab robot --world digits --train_clips 2048
fi

# The disc's recipe; trained on 10 predicted frames, as published, and for longer.
FLAGS=(--lab robot --DR "$DATA" --nets dcgan --vgg_width 16 --z_dim 10 --condition none --n_past 5
    --loss calibrated --niter 100 --epoch_size 100 --random_offset --n_eval 25 --val_every 50
    --lr_schedule cosine --ema 0.99)
schedule "$RUN/beta.csv" 100 'beta = min(2500, 1 + 2499 * e / 90)' # 100 epochs, 0.9 of them rise
Z=(--learned_prior --schedule "$RUN/beta.csv")

python "$ROOT/Trainer.py" "${FLAGS[@]}" "${Z[@]}" --save_root "$RUN" "${@:2}"
python "$ROOT/Trainer.py" "${FLAGS[@]}" --no-latent --save_root "$RUN/twin" "${@:2}"
python "$ROOT/Tester.py" --lab robot --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/last.ckpt" \
    --twin "$RUN/twin/last.ckpt" --n_future 20 --n_samples 100
echo
echo "page            $RUN/report.html"
echo "futures         $RUN/futures.gif, $RUN/futures.png"
echo "compared        $RUN/best_of_n.png, $RUN/rank_histogram.png"
echo "z               $RUN/kl_over_time.png, $RUN/traversal.png"
