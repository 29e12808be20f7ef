# Sourced by sweep_*.sh and report_*.sh. These list runs with `add`, and end with `sweep`: it trains,
# tests and compares them. How to use and to write such a list: docs/sweeps.md.
#   DR=/path/to/dataset bash scripts/sweep_kl.sh [RUNS_FOLDER [more flags of Trainer.py]]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ALL=()     # flags of every run
REPORT=()  # --published NAMES TEXT: a row of the last table; --figure NAME FILE: a figure's copy
COMPARE=() # flags of compare.py
RUNS=()    # what `add` lists

add() { # add NAME FLAGS...
    RUNS+=(--run "$@")
}

sweep() { # sweep DEFAULT_FOLDER "$@"
    local folder=$ROOT/$1 smoke=()
    [ "${SMOKE:-0}" = 0 ] || { smoke=(--smoke) && folder+=_smoke; }
    exec python "$ROOT/scripts/sweep.py" --DR "${DR:-$ROOT/../dataset}" \
        --save_root "${2:-$folder}" --jobs "${JOBS:-0}" --gpus "${GPUS:-}" --only "${ONLY:-*}" \
        ${smoke[@]+"${smoke[@]}"} ${REPORT[@]+"${REPORT[@]}"} --all ${ALL[@]+"${ALL[@]}"} \
        "${RUNS[@]}" --more "${@:3}" --compare ${COMPARE[@]+"${COMPARE[@]}"}
}
