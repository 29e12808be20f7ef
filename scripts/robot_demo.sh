#!/usr/bin/env bash
# Robot demo: environment, synthetic data set, training, test. About 10 minutes on two CPU cores.
#   bash scripts/robot_demo.sh [RUN_FOLDER [flags of Trainer.py]]
#   bash scripts/robot_demo.sh runs/cycles --kl_anneal_cyclical --kl_anneal_cycle 2
#   bash scripts/robot_demo.sh runs/blind --condition none
source "$(dirname "$0")/setup.sh"
DATA=${DATA:-$ROOT/data/toy_robot}
RUN=${1:-$ROOT/runs/robot_demo}

[ -d "$DATA" ] || python "$ROOT/scripts/make_toy_data.py" "$DATA" --lab robot

# A GPU trains the full-size nets; a CPU trains nets of an eighth of the width.
if has_gpu; then
    SIZE=(--epoch_size 200)
else
    SIZE=(--vgg_width 8 --epoch_size 50)
fi

# The loss is the ELBO: a Gaussian likelihood, and beta 1. A rollout has z at its prior's mean.
Z=(--loss calibrated --learned_prior --kl_anneal_type None --z_source mean)

python "$ROOT/Trainer.py" --lab robot --DR "$DATA" --save_root "$RUN" "${SIZE[@]}" \
    --niter 24 --val_every 4 --random_offset --standardise --lr_schedule cosine --ema 0.99 \
    "${Z[@]}" "${@:2}"

python "$ROOT/Tester.py" --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/best_score.ckpt" --n_samples 3
echo "look at  $RUN/report.html"
