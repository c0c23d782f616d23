#!/usr/bin/env bash
# Trains the value model as a Slurm job that goes on by itself after preemption, its time limit, or
# the loss of a machine. From the root of the repository (the arguments go to train_classifier.py;
# those of sbatch override the lines below, so 4 machines are `sbatch --nodes=4 scripts/...`):
#
#     sbatch scripts/train_slurm.sh --data_path VGS-AI/OpenR1-VM --data_num_response 56 \
#         --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --num_epochs 5 \
#         --total_batch_size 1024 --max_lr 1e-4 --packing shared_prefix --small_group_size 4 \
#         --tokens_per_micro_batch 65536 --save_every 200 --output_dir outputs --run_name vm
#
# The repository, its .venv, the data and --output_dir must be on a file system of all machines.
#
# - Preemption, time limit: Slurm sends SIGTERM to the machines, all processes save after the step
#   they are in, and the job is put back into the queue.
# - A machine is lost: Slurm ends the job and, by --requeue, puts it back. MAX_RESTARTS (see
#   train_multinode.sh) is for processes that fail on machines that are well.
# - Any other failure: the job is put back if a checkpoint was written since it started. So what
#   fails at once fails for good.
# - scancel: for good. With `scancel --signal=TERM JOB` the job saves first and is put back.
#
#SBATCH --job-name=value-model
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
program=train_slurm.sh
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}" # Slurm runs a copy of this file
[ -f scripts/lib/slurm.sh ] ||
    { echo "$program: error: submit it from the root of the repository, not $PWD" >&2 && exit 2; }
source scripts/lib/slurm.sh

[ -n "${SLURM_JOB_ID:-}" ] || fail "not in a Slurm job; start it with sbatch"
run_name=$(flag_value run_name "" "$@")
[ -n "$run_name" ] || fail "no --run_name"
run_dir=$(flag_value output_dir outputs "$@")/$run_name

# The names of the complete checkpoints and of the finished model.
progress() { (cd "$run_dir" 2>/dev/null && ls -d step_* final 2>/dev/null) || true; }

# Ranks follow the names of the machines: rank 0, whose work ends last, is where all meet.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | LC_ALL=C sort)
export NNODES=$SLURM_JOB_NUM_NODES
export RDZV_ENDPOINT=${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 10000))
export RDZV_ID=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
# No machine comes back within a job.
export JOIN_TIMEOUT=${JOIN_TIMEOUT:-600}

# A process that ends early doesn't end the others, which may be saving, whatever the site's
# defaults are.
run_step --kill-on-bad-exit=0 --wait=0 scripts/train_multinode.sh "$@"

if [ -d "$run_dir/final" ]; then
    echo "$program: finished, exit status $status"
elif [ "$after" != "$before" ]; then
    put_back "$SLURM_JOB_ID" "${after//$'\n'/ }"
else
    echo "$program: failed before a checkpoint was written, exit status $status" >&2
fi
exit "$status"
