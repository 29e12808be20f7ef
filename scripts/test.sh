#!/usr/bin/env bash
# Passes the tests: bash scripts/test.sh [pytest's own flags]
source "$(dirname "$0")/setup.sh"
install tests/requirements.txt
ruff check .
exec python -m pytest tests -q "$@"
