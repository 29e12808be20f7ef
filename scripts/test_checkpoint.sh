#!/usr/bin/env bash
# Roll a run's best checkpoint out over the test clips: gifs, film strips, submission.csv, scores.
#   DR=/path/to/dataset bash scripts/test_checkpoint.sh RUN_FOLDER [more flags of Tester.py]
source "$(dirname "$0")/setup.sh"
DR=${DR:-$ROOT/../dataset}
RUN=${1:?usage: bash scripts/test_checkpoint.sh RUN_FOLDER [flags]}

python "$ROOT/Tester.py" --DR "$DR" --save_root "$RUN" --ckpt_path "$RUN/best_score.ckpt" "${@:2}"
