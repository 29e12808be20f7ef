# Sourced by the other scripts: names the repository's folder ROOT and, on first use, creates .venv
# there with the requirements. Relative paths count from the folder that the user is in.
#   PYTHON=python3.12 bash scripts/demo.sh    chooses another Python
#   VENV=/some/folder bash scripts/demo.sh    keeps the environment elsewhere
set -euo pipefail
ROOT=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac

make_venv() {
    local python=${PYTHON:-python3} site=""
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: $python is missing or older than Python 3.10; name another one with PYTHON=" >&2
        exit 1
    }
    # Reuse the torch and torchvision of this Python if they work together: no second download.
    local usable='import torch, torchvision
assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)'
    if "$python" -c "$usable" 2>/dev/null; then
        site=--system-site-packages
        echo "using the torch and torchvision of $python"
    fi
    echo "making the virtual environment $VENV"
    "$python" -m venv $site "$VENV"
}

install() { # install REQUIREMENTS_FILE: runs pip only if the file has changed since last time
    local stamp="$VENV/installed-${1//\//-}"
    cmp -s "$ROOT/$1" "$stamp" && return
    echo "installing $1 (torch is large: this can take some minutes)"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r "$ROOT/$1"
    cp "$ROOT/$1" "$stamp"
}

# schedule FILE EPOCHS FORMULAS: writes a file for --schedule. A formula of the epoch e for each column:
#   schedule runs/lr.csv 300 'lr = 1e-3 * 0.99 ** e'
schedule() {
    mkdir -p "$(dirname "$1")"
    python - "${@:2}" >"$1" <<'END'
import math, sys
formulas = dict(text.split("=", 1) for text in sys.argv[2:])
print("epoch", *(name.strip() for name in formulas), sep=",")
for e in range(int(sys.argv[1])):
    print(e, *(eval(formula, vars(math), {"e": e}) for formula in formulas.values()), sep=",")
END
}

has_gpu() {
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

[ -x "$VENV/bin/pip" ] || make_venv
install requirements.txt
export PATH="$VENV/bin:$PATH"
