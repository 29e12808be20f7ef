#!/usr/bin/env bash
# One run of report D; TFR=1 is the one with teacher forcing. report_d.sh trains all of them.
TFR=${TFR:-0} ONLY=${ONLY:-Cyclical/*} exec bash "$(dirname "$0")/report_d.sh" "$@"
