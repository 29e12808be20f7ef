#!/usr/bin/env bash
# Runs the numerical tests (tests/numerical.txt) as older CPUs do, which add in another order:
# bash scripts/test_cpus.sh [CPU ...], each one of avx2, default (no AVX) and native.
source "$(dirname "$0")/setup.sh"
cd "$ROOT"
install tests/requirements.txt
for cpu in ${*:-avx2 default}; do
    threads=1
    case $cpu in
        avx2) threads=2 imitated=(ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2) ;;
        default) imitated=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41) ;;
        native) imitated=() ;;
        *) echo "error: unknown CPU $cpu" >&2 && exit 2 ;;
    esac
    echo "numerical tests: CPU $cpu, $threads threads"
    env ${imitated[@]+"${imitated[@]}"} OMP_NUM_THREADS=$threads OMP_WAIT_POLICY=PASSIVE \
        python -m pytest @tests/numerical.txt -q --numprocesses 2 --dist loadfile
done
