#!/usr/bin/env bash
# From a fresh clone to a dancer that follows 630 poses: environment, data, training, test.
#   bash scripts/demo.sh [RUN_FOLDER]      about 7 minutes on two CPU cores, after the installation
source "$(dirname "$0")/setup.sh"
DATA=${DATA:-data/toy}
RUN=${1:-runs/demo}

[ -d "$DATA" ] || python scripts/make_toy_data.py "$DATA"

# A GPU trains the full-size nets; a CPU trains nets of a fifth of the width.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    SIZE=(--num_epoch 60)
else
    SIZE=(--F_dim 24 --L_dim 8 --N_dim 4 --D_out_dim 40 --num_epoch 24)
fi

# No teacher forcing; short shuffled clips, half of which start from a far-away frame: the net must
# learn to uncover background, which consecutive frames never ask of it. z is drawn from the prior
# throughout (--pretrain_epochs): a few minutes do not pay for a posterior that says nothing in the
# end. README: "Strategies".
python Trainer.py --DR "$DATA" --save_root "$RUN" "${SIZE[@]}" --val_every 8 \
    --batch_size 4 --train_vi_len 5 --shuffle --random_offset --jump_start 0.5 \
    --feedback_noise 0.05 --tfr 0 --pretrain_epochs 1000 --position_map 8 --z_source mean \
    --lr 0.001 --lr_schedule cosine --grad_clip 0.001 --ema 0.99

python Tester.py --DR "$DATA" --save_root "$RUN" --ckpt_path "$RUN/best_score.ckpt"
echo
echo "gifs            $RUN/pred_seq0.gif, $RUN/pred_seq1.gif, $RUN/val.gif"
echo "film strips     $RUN/strip0.png, $RUN/strip1.png"
echo "submission      $RUN/submission.csv"
echo "curves          $RUN/plots/curves.png, $RUN/psnr_per_frame.png"
echo "scores          $RUN/scores.json, $RUN/metrics.csv"
