# Sourced by sweep_*.sh and report_*.sh. These list runs with `add`, and end with `sweep`: it trains,
# tests and compares them. How to use and to write such a list: docs/sweeps.md.
#   DR=/path/to/dataset bash scripts/sweep_kl.sh [RUNS_FOLDER [more flags of Trainer.py]]
# FOLDER is that of the runs: by default runs/ and the script's name.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ALL=()     # flags of every run
COMPARE=() # flags of compare.py
RUNS=()    # what `add` lists
REPORT=()  # what the following four list: figures and tables at the end, in figures/
SMOKED=()
[ "${SMOKE:-0}" = 0 ] || SMOKED=(--smoke)
FOLDER=${1:-$ROOT/runs/$(basename "$0" .sh)${SMOKED:+_smoke}}

add() { # add NAME FLAGS...
    RUNS+=(--run "$@")
}

published() { REPORT+=(--published "$@"); } # RUNS TEXT: beside what these runs reach
figure() { REPORT+=(--figure "$@"); }       # NAME COLUMN RUNS [GROUP_BY [PANEL_BY]]
table() { REPORT+=(--table "$@"); }         # NAME RUNS GROUP_BY COLUMN...
copy() { REPORT+=(--copy "$@"); }           # NAME FILE

sweep() { # sweep "$@"
    exec python "$ROOT/scripts/sweep.py" --DR "${DR:-$ROOT/../dataset}" \
        --save_root "$FOLDER" --jobs "${JOBS:-0}" --gpus "${GPUS:-}" --only "${ONLY:-*}" \
        ${SMOKED[@]+"${SMOKED[@]}"} ${REPORT[@]+"${REPORT[@]}"} --all ${ALL[@]+"${ALL[@]}"} \
        "${RUNS[@]}" --more "${@:2}" --compare ${COMPARE[@]+"${COMPARE[@]}"}
}
