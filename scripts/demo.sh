#!/usr/bin/env bash
# From a fresh clone to a dancer that follows 630 poses: environment, data, training, test.
#   bash scripts/demo.sh [RUN_FOLDER [Trainer.py's own flags]]
# 8 minutes of one CPU core, after the installation.
source "$(dirname "$0")/setup.sh"
DATA=${DATA:-data/toy}
RUN=${1:-runs/demo}

[ -d "$DATA" ] || python scripts/make_toy_data.py "$DATA"

DR="$DATA" bash scripts/train_best.sh "$RUN" --num_epoch 50 --val_every 10 "${@:2}"

python Tester.py --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/best_score.ckpt"
echo
echo "gifs            $RUN/pred_seq0.gif, $RUN/pred_seq1.gif, $RUN/val.gif"
echo "film strips     $RUN/strip0.png, $RUN/strip1.png"
echo "submission      $RUN/submission.csv"
echo "curves          $RUN/plots/curves.png, $RUN/psnr_per_frame.png"
echo "scores          $RUN/scores.json, $RUN/metrics.csv"
