#!/usr/bin/env bash
# The published training of a value model on one machine with 4 GPUs. Further arguments go to
# train_classifier.py; where a flag is given twice, the last one counts:
#
#     scripts/train.sh
#     NPROC_PER_NODE=8 scripts/train.sh --run_name my_run --packing shared_prefix --small_group_size 4 \
#         --no_push_to_hub
#
# Environment:
#     NPROC_PER_NODE  processes, one a GPU, 4 by default
#
# Several machines: scripts/train_multinode.sh.
set -euo pipefail
program=train.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
find_python

export HF_XET_HIGH_PERFORMANCE=1 # in place of HF_HUB_ENABLE_HF_TRANSFER, which is gone
exec "$python" -m torch.distributed.run --standalone --nproc_per_node "${NPROC_PER_NODE:-4}" \
    "$root/train_classifier.py" \
    --eval_every -1 \
    --save_every 486 \
    --num_steps 12170 \
    --max_lr 0.0001 \
    --data_path VGS-AI/OpenR1-VM \
    --data_num_response 56 \
    --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
    --total_batch_size 64 \
    --micro_batch_size 8 \
    --small_group_size 2 \
    --run_name single_node_run \
    --track \
    --compile \
    --push_to_hub \
    "$@"
