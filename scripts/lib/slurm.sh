# What the Slurm scripts share. Sourced in the root of the repository, with `program` set to the
# script's name.
# shellcheck shell=bash disable=SC2154

source scripts/lib/common.sh

# Ends the script unless it is a task of a Slurm array.
require_array_task() {
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || fail "not a task of a Slurm array; start it with sbatch"
}

# Tells whether the array is 0-N. Of an array like 3,5 Slurm only tells that it has two tasks.
is_whole_array() {
    [ "$SLURM_ARRAY_TASK_MIN" -eq 0 ] && [ "$SLURM_ARRAY_TASK_MAX" -eq $((SLURM_ARRAY_TASK_COUNT - 1)) ]
}

# Prints the last value of a flag, or a default. Usage: flag_value NAME DEFAULT ARGUMENT...
# NAME has underscores; dashes in their place are understood, and `--name=value`.
flag_value() {
    local flag=--${1//_/[_-]} value=$2
    shift 2
    while [ $# -gt 0 ]; do
        # shellcheck disable=SC2254  # a pattern
        case $1 in
        $flag) value=${2:-} ;;
        $flag=*) value=${1#*=} ;;
        esac
        shift
    done
    printf '%s\n' "$value"
}

# Ends the script if --shard is among the arguments.
refuse_shard() {
    local argument
    for argument in "$@"; do
        case $argument in --shard | --shard=*) fail "--shard follows from the array" ;; esac
    done
}

# Runs a command under srun. Usage: run_step [SRUN_OPTION...] COMMAND...
# Sets `status`, and `before` and `after` to what the script's function `progress` prints.
run_step() {
    before=$(progress)
    status=0
    srun ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "$@" || status=$?
    after=$(progress)
}

# Puts a job or a task back into the queue; Slurm then ends this script. Usage: put_back ID PROGRESS
put_back() {
    echo "$program: not finished, back into the queue with $2"
    scontrol requeue "$1"
}

# Ends a task of an array after `run_step`, where `progress` prints a number. The task is put back
# if the number has grown and the exit status isn't that of bad input.
# Usage: end_array_task MESSAGE_IF_FINISHED PROGRESS NEW_PROGRESS
end_array_task() {
    if [ "$status" -eq 0 ]; then
        echo "$program: $1"
    elif [ "$status" -ne 2 ] && [ "$after" -gt "$before" ]; then
        # Not by SLURM_JOB_ID: for one of the tasks that is the whole array.
        put_back "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" "$2"
    else
        echo "$program: failed, $3, exit status $status" >&2
    fi
    exit "$status"
}
