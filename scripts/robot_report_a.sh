#!/usr/bin/env bash
# The earlier name of report_a.sh.
exec bash "$(dirname "$0")/report_a.sh" "$@"
