# Sourced by slurm_*.sbatch in the repository's folder, from which they are submitted. Install the
# requirements before, where there is a network: source scripts/setup.sh
announced= # whether Slurm has announced the end (--signal)
trap announced=1 USR1 TERM
source scripts/setup.sh
JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
JOB=${JOB:-$SLURM_JOB_ID}

# Runs a command. When Slurm announces the end, the command saves and stops, and the job is queued
# again: the same command resumes.
resumable() {
    local child code=0 stop
    [ ! "$announced" ] || requeue
    "$@" &
    child=$!
    stop="kill -TERM $child"
    [ "$1" != srun ] || stop="scancel --signal=TERM $JOB" # srun itself would kill its processes
    trap 'announced=1; $stop' USR1 TERM
    [ ! "$announced" ] || $stop
    wait "$child" || code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal interrupts wait
        code=0
        wait "$child" || code=$?
    done
    trap - USR1 TERM
    [ ! "$announced" ] || [ "$code" = 0 ] || requeue
    return "$code"
}

requeue() {
    echo "job $JOB is queued again"
    scontrol requeue "$JOB"
    sleep 60 # Slurm ends this script
    exit 1
}
