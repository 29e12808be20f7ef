#!/usr/bin/env bash
# Before a release: the numerical tests under the oldest and the newest Python and torch of the
# README, each in a new virtual environment. Downloads several GB, and then takes about 15 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

try() { # try PYTHON PACKAGE...
    rm -rf ".venv-$1"
    "$1" -m venv ".venv-$1"
    ".venv-$1/bin/pip" install --quiet "${@:2}"
    VENV=.venv-$1 bash scripts/test_cpus.sh native avx2 default
}

try python3.10 torch==2.6.0 torchvision==0.21.0 numpy==1.26.4
try python3.14 torch torchvision numpy
