#!/usr/bin/env bash
# Render a small data set, train on it, predict two unseen clips of 630 frames from one frame each.
#   bash scripts/demo.sh [--full] [RUN_FOLDER [flags of Trainer.py]]
#   DATA=folder bash scripts/demo.sh      another place for the synthetic data (default data/toy)
# After the installation it takes about 2 minutes on two plain CPU cores (AVX2, float32) and reaches
# about 35 dB on both clips (copy-first-frame baseline: 17.6 dB). With --full it trains wider nets
# for 50 epochs.
source "$(dirname "$0")/setup.sh"
FULL=
[ "${1:-}" = --full ] && FULL=1 && shift
DATA=${DATA:-$ROOT/data/toy}

if [ "$FULL" ]; then
    RUN=${1:-$ROOT/runs/demo_full}
    RECIPE=(--num_epoch 50 --val_every 10)
else
    # Narrow nets and many small steps. A second thread makes training at most 1.5 times as fast,
    # and on a busy machine many times slower.
    RUN=${1:-$ROOT/runs/demo}
    RECIPE=(--F_dim 16 --L_dim 32 --N_dim 4 --D_out_dim 32 --num_epoch 8 --val_every 4
        --batch_size 4 --train_vi_len 3 --lr 0.005 --lr_min 0.0002 --ema 0.98)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

[ -d "$DATA" ] || python "$ROOT/scripts/make_toy_data.py" "$DATA"

DR="$DATA" bash "$ROOT/scripts/train_best.sh" "$RUN" "${RECIPE[@]}" "${@:2}"

python "$ROOT/Tester.py" --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/best_score.ckpt"
echo "look at  $RUN/report.html"
