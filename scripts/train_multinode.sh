#!/usr/bin/env bash
# Trains the value model on several machines: start it on every machine, with the same environment
# and the same arguments, which go to train_classifier.py.
#
# The paper's training, on 16 machines with 8 GPUs each (micro batches are packed: the same loss as
# with the published --micro_batch_size 8, in less time):
#
#     export NNODES=16 RDZV_ENDPOINT=node0:29400
#     scripts/train_multinode.sh --data_path VGS-AI/OpenR1-VM --data_num_response 56 \
#         --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --num_epochs 5 \
#         --total_batch_size 1024 --max_length 16384 --packing shared_prefix --small_group_size 4 \
#         --tokens_per_micro_batch 65536 --save_every 200 --output_dir /shared/outputs --run_name vm
#
# On Slurm: scripts/train_slurm.sh. The published command, on one machine: scripts/train.sh.
#
# Environment:
#     NNODES          number of machines
#     RDZV_ENDPOINT   host[:port] of one of them, where all meet; port 29400 by default
#     RDZV_ID         name of the job there, "train_classifier" by default
#     NPROC_PER_NODE  processes on this machine; by default its GPUs, or 1 without any
#     MAX_RESTARTS    failures after which the job restarts in place, 20 by default
#     JOIN_TIMEOUT    seconds to wait for missing machines, 1800 by default
#     LOCAL_ADDR      address of this machine for the others; its full host name by default
#
# What happens when
# - a process fails or a machine is lost: within a minute all processes end. Each machine starts its
#   own again, up to MAX_RESTARTS times, from the newest checkpoint and as soon as there are NNODES
#   machines. On a machine that comes back or replaces another one, start the same command. After
#   MAX_RESTARTS the job ends everywhere.
# - the machine of RDZV_ENDPOINT is lost: the job ends everywhere. Start it again as a whole. Best
#   take the one whose full host name is first in the alphabet: rank 0 is there, which ends last.
# - this script gets SIGTERM (preemption): all processes give up their step and save; those of this
#   machine have SHUTDOWN_TIMEOUT seconds for it, 300 by default, before they are killed. The exit
#   status is not 0, and the same command goes on from there. Send it to all machines: one that
#   doesn't get it takes the job for done, and ends five minutes later with status 0.
set -euo pipefail
program=train_multinode.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

[ -n "${NNODES:-}" ] || fail "NNODES is not set: the number of machines"
[ -n "${RDZV_ENDPOINT:-}" ] || fail "RDZV_ENDPOINT is not set: host[:port] of one of the machines"
[ $# -gt 0 ] || fail "no arguments for train_classifier.py"
find_python

if [ -z "${NPROC_PER_NODE:-}" ]; then
    # By the device files, so that GPUs that don't work are torchrun's error instead of a slow
    # process on the CPU. `gpu` minds CUDA_VISIBLE_DEVICES.
    if [ -e /dev/nvidiactl ] || [ -e /dev/kfd ]; then NPROC_PER_NODE=gpu; else NPROC_PER_NODE=1; fi
fi

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${SHUTDOWN_TIMEOUT:-300}
# A new store for the processes of every attempt. When the machine of rank 0 comes back, torch 2.13
# would tell the others the address of the store it had before.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# read_timeout is also how long machines wait at the start for the one of RDZV_ENDPOINT.
exec "$python" -m torch.distributed.run \
    --nnodes "$NNODES" --nproc-per-node "$NPROC_PER_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-train_classifier}" \
    --rdzv-conf "join_timeout=${JOIN_TIMEOUT:-1800},read_timeout=300" \
    --max-restarts "${MAX_RESTARTS:-20}" --monitor-interval 1 \
    ${LOCAL_ADDR:+--local-addr "$LOCAL_ADDR"} \
    "$root/train_classifier.py" "$@"
