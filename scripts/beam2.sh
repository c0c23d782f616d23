#!/usr/bin/env bash
# The published evaluation of value-guided search: AIME-24, width 2, 8 blocks x 16 trees, a budget of
# 128. Further arguments go to inference_eval.py; where a flag is given twice, the last one counts:
#
#     scripts/beam2.sh
#     scripts/beam2.sh --benchmark aime-25 --output_path outputs/aime-25/inference_outputs.jsonl
#
# The published command also has --neptune_project cornell-rl/oss-infer-eval: name your own.
set -euo pipefail
program=beam2.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
find_python

exec "$python" -u "$root/inference_eval.py" \
    --benchmark aime-24 \
    --piref_gpu_util 0.75 \
    --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
    --seed 7996 \
    --batch_size 10 \
    --num_blocks 8 \
    --block_size 4096 \
    --temperature 0.6 \
    --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B \
    --num_repetitions 16 \
    --output_path outputs/aime-24/inference_outputs.jsonl \
    --attention_impl flash_attention_2 \
    --search_type beam2 \
    "$@"
