#!/usr/bin/env bash
# Runs the tests: bash scripts/test.sh [--quick] [pytest's own flags]
source "$(dirname "$0")/setup.sh"
cd "$ROOT"
install tests/requirements.txt
ruff check .
ruff format --check .
export OMP_NUM_THREADS=1 # tiny nets: two processes, not two threads
exec python -m pytest tests -q --numprocesses 2 --dist loadfile "$@"
