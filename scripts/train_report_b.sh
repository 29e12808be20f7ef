#!/usr/bin/env bash
# The run of report B that it recommends: report_b.sh trains all of them.
ONLY=${ONLY:-Cyclical/tfr0} exec bash "$(dirname "$0")/report_b.sh" "$@"
