#!/usr/bin/env bash
# The earlier name of report_e.sh.
exec bash "$(dirname "$0")/report_e.sh" "$@"
