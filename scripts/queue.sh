# Sourced by sweep_*.sh and report_*.sh. These list runs with `add`, and end with `sweep`.
#   DR=/path/to/dataset bash scripts/sweep_kl.sh [RUNS_FOLDER [more flags of Trainer.py]]
#   JOBS=2           two runs at once
#   GPUS=0,1         one run on each of these GPUs; with JOBS=4 two on each
#   SMOKE=1          tiny nets on a drawn dataset, in a folder of their own: minutes, no results
#   ONLY='None/*'    only the runs with such a name
# Relative paths count from the folder that you are in. The same command resumes a sweep that was
# stopped. The comparison page is RUNS_FOLDER/compare/report.html.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ALL=()     # flags of every run
REPORT=()  # --published NAMES TEXT: a row of the last table; --figure NAME FILE: a figure's copy
COMPARE=() # flags of compare.py
RUNS=()

add() { # add NAME FLAGS...
    RUNS+=(--run "$@")
}

sweep() { # sweep DEFAULT_FOLDER [RUNS_FOLDER [FLAGS...]]
    local folder=$ROOT/$1 smoke=()
    case ${SMOKE:-0} in 0) ;; *) smoke=(--smoke) folder+=_smoke ;; esac
    cd "$HERE"
    exec python "$ROOT/scripts/sweep.py" --DR "${DR:-$ROOT/../dataset}" \
        --save_root "${2:-$folder}" --jobs "${JOBS:-0}" --gpus "${GPUS:-}" --only "${ONLY:-*}" \
        ${smoke[@]+"${smoke[@]}"} ${REPORT[@]+"${REPORT[@]}"} --all ${ALL[@]+"${ALL[@]}"} \
        "${RUNS[@]}" --more "${@:3}" --compare ${COMPARE[@]+"${COMPARE[@]}"}
}
