#!/usr/bin/env bash
# Serves a value model on the GPUs of this machine, for searches with --scorer sglang_server: one
# SGLang server a GPU, and SGLang's router in front of them.
#
#     scripts/serve_value_model.sh VGS-AI/DeepSeek-VM-1.5B
#     python inference_eval.py --benchmark aime-24 --num_repetitions 16 \
#         --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
#         --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --output_path outputs/aime-24/records.jsonl \
#         --scorer sglang_server --scorer_url http://localhost:30100
#
# Arguments behind the model go to every server (`python -m sglang.launch_server --help`).
#
# Environment:
#     PORT                  of the router, or of the only server; 30100 by default. The servers behind
#                           a router get the ports that follow
#     HOST                  address it listens at, 127.0.0.1 by default; 0.0.0.0 for other machines,
#                           with an API_KEY. The servers behind a router are for this machine alone
#     API_KEY               the key that a request must have, see serve_policy.sh: a search has one
#                           --api_key for both
#     CUDA_VISIBLE_DEVICES  GPUs to use; all by default
#     TP_SIZE               GPUs of one server, 1 by default
#     NUM_SERVERS           by default as many as there are GPUs for, or 1 without any (on the CPU)
#     LOG_DIR               of the servers' output, outputs/serve_value_model by default
#     READY_TIMEOUT         seconds until all must be ready, 1800 by default
#     MAX_RESTARTS          of servers that fail after that, 20 by default
#
# The router keeps all paths of a prompt on one server, whose cache has their prefixes. It goes by the
# key that the search sends along (policy manual): its policy cache_aware reads texts only, and sends
# token ids for valuing to one server or to the idlest, whatever that has in its cache.
#
# A server or router that fails before all are ready ends everything, with status 1. Later it is
# started again in place; clients try again meanwhile.
set -euo pipefail
program=serve_value_model.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/serve.sh"

[ $# -gt 0 ] || fail "no value model: give a folder or hub id as the first argument"
find_python
find_servers 30100 outputs/serve_value_model

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
server_command=(classifier_lib.serve --model "$1" --end_with_parent)
router_options=(--policy manual --assignment-mode min_group --worker-startup-check-interval 1)
serve --scorer_url "$@"
