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
program=search_slurm.sh
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # Slurm runs a copy of this file
[ -f scripts/lib/slurm.sh ] ||
    { echo "$program: error: submit it from the root of the repository, not $PWD" >&2 && exit 2; }
source scripts/lib/slurm.sh

require_array_task
if [ -z "${NUM_SHARDS:-}" ]; then
    is_whole_array ||
        fail "the array is not 0-$((SLURM_ARRAY_TASK_COUNT - 1)); say NUM_SHARDS=<of the whole run>"
    NUM_SHARDS=$SLURM_ARRAY_TASK_COUNT
fi
refuse_shard "$@"
output=$(flag_value output_path inference_outputs.jsonl "$@")
records=$(dirname "$output")/shard-$SLURM_ARRAY_TASK_ID-of-$NUM_SHARDS/$(basename "$output")
find_python

progress() { if [ -f "$records" ]; then wc -l <"$records"; else echo 0; fi; }

run_step "$python" -u inference_eval.py "$@" --shard "$SLURM_ARRAY_TASK_ID/$NUM_SHARDS"
end_array_task "finished, $after records" "$after records" "$((after - before)) new records"
