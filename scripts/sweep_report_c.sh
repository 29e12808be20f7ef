#!/usr/bin/env bash
# The earlier name of report_c.sh.
exec bash "$(dirname "$0")/report_c.sh" "$@"
