#!/usr/bin/env bash
# Runs one stage of the data pipeline as a Slurm array: each task makes every n-th file, and goes on by
# itself after preemption, its time limit, or the loss of its machine. From the root of the
# repository (the arguments are the stage and its flags; those of sbatch override the lines below, so
# 128 tasks are `sbatch --array=0-127 scripts/...`):
#
#     sbatch scripts/data_slurm.sh clean --input open-r1/OpenR1-Math-220k --output data/cleaned
#     sbatch scripts/data_slurm.sh roll_in --input data/cleaned --output data/roll_ins \
#         --models deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B:4
#     sbatch scripts/data_slurm.sh roll_out --input data/roll_ins --output data/roll_outs \
#         --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
#     sbatch scripts/data_slurm.sh label --input data/roll_outs --output data/openr1_vm \
#         --tokenizer deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
#
# each when the one before has finished (`sbatch --dependency=afterok:JOB`). clean and label want no
# GPU: `sbatch --gpus-per-node=0`. The repository, its .venv, the models and the data must be on a file
# system of all machines. What is done depends on no number of tasks: it may differ from start to
# start, and tasks that failed are run again by the same command.
#
# - Preemption, a lost machine: Slurm puts the task back by --requeue.
# - Time limit or any other failure: the task is put back if it made a file since it started. So what
#   fails at once fails for good, and bad input (exit status 2) always does.
#
#SBATCH --job-name=data
#SBATCH --array=0-31
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.out
set -euo pipefail
program=data_slurm.sh
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # Slurm runs a copy of this file
[ -f scripts/lib/slurm.sh ] ||
    { echo "$program: error: submit it from the root of the repository, not $PWD" >&2 && exit 2; }
source scripts/lib/slurm.sh

require_array_task
stage=${1:-}
case $stage in
clean | roll_in | roll_out | label) shift ;;
*) fail "the first argument is clean, roll_in, roll_out or label, not '$stage'" ;;
esac
is_whole_array || fail "the array must be 0-N; what is done already is skipped"
refuse_shard "$@"
output=$(flag_value output "" "$@")
[ -n "$output" ] || fail "no --output"
find_python

# Lines of the stage's log of this shard: a file each, in all folders of the stage.
progress() {
    local name=.shard-$SLURM_ARRAY_TASK_ID-of-$SLURM_ARRAY_TASK_COUNT.lock
    { find "$output" -name "$name" -exec cat {} + 2>/dev/null || true; } | wc -l
}

run_step "$python" -u -m "data_prep.$stage" "$@" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
new="$((after - before)) new files"
end_array_task "finished with $new" "$new" "$new"
