#!/usr/bin/env bash
# Runs one search setting on one benchmark as a Slurm array: each task runs its shard on a GPU of its
# own, and goes on by itself after preemption, its time limit, or the loss of its machine. From the
# root of the repository (the arguments go to inference_eval.py; those of sbatch override the lines
# below, so 32 shards are `sbatch --array=0-31 scripts/...`):
#
#     sbatch scripts/search_slurm.sh --benchmark aime-24 --search_type beam2 --num_blocks 8 \
#         --num_repetitions 16 --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
#         --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --output_path outputs/aime-24/records.jsonl
#
# and when all tasks have ended well (a job for that: sbatch --dependency=afterok:JOB --wrap "..."):
#
#     .venv/bin/python -m search_lib.results.shards merge outputs/aime-24/shard-*-of-8/records.jsonl \
#         --output_path outputs/aime-24/records.jsonl
#
# The repository, its .venv, the models and --output_path must be on a file system of all machines.
#
# - Preemption, a lost machine: Slurm puts the task back by --requeue.
# - Time limit: Slurm ends the search a minute before. The task is put back.
# - Any other failure: the task is put back if records were written since it started. So what fails
#   at once fails for good, and bad input (exit status 2) always does.
# - Some tasks failed: the same command with `NUM_SHARDS=8 sbatch --array=3,5` runs these again.
#
#SBATCH --job-name=search
#SBATCH --array=0-7
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

fail() {
    echo "search_slurm.sh: error: $1" >&2
    exit 2
}

[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || fail "not a task of a Slurm array; start it with sbatch"
# Slurm runs a copy of this file.
cd "$SLURM_SUBMIT_DIR"
[ -f inference_eval.py ] || fail "submit it from the root of the repository, not $PWD"
python=$PWD/.venv/bin/python
[ -x "$python" ] || python=python

if [ -z "${NUM_SHARDS:-}" ]; then
    # Of an array like 3,5 Slurm tells that it has two tasks: that is not how many shards there are.
    [ "$SLURM_ARRAY_TASK_MIN" -eq 0 ] && [ "$SLURM_ARRAY_TASK_MAX" -eq $((SLURM_ARRAY_TASK_COUNT - 1)) ] ||
        fail "the array is not 0-$((SLURM_ARRAY_TASK_COUNT - 1)); say NUM_SHARDS=<of the whole run>"
    NUM_SHARDS=$SLURM_ARRAY_TASK_COUNT
fi

output=inference_outputs.jsonl
for ((i = 1; i <= $#; i++)); do
    value=${!i#*=}
    if [[ ${!i} != *=* ]]; then
        next=$((i + 1))
        value=${!next:-}
    fi
    case ${!i%%=*} in
    --output[_-]path) output=$value ;;
    --shard) fail "--shard follows from the array" ;;
    esac
done
records=$(dirname "$output")/shard-$SLURM_ARRAY_TASK_ID-of-$NUM_SHARDS/$(basename "$output")

num_records() { if [ -f "$records" ]; then wc -l <"$records"; else echo 0; fi; }

before=$(num_records)
status=0
srun ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
    "$python" -u inference_eval.py "$@" --shard "$SLURM_ARRAY_TASK_ID/$NUM_SHARDS" || status=$?
after=$(num_records)

if [ "$status" -eq 0 ]; then
    echo "search_slurm.sh: finished, $after records"
elif [ "$status" -ne 2 ] && [ "$after" -gt "$before" ]; then
    echo "search_slurm.sh: not finished, back into the queue with $after records"
    # Not by SLURM_JOB_ID: for one of the tasks that is the whole array. Slurm ends this script.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
else
    echo "search_slurm.sh: failed, $((after - before)) new records, exit status $status" >&2
fi
exit "$status"
