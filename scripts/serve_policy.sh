#!/usr/bin/env bash
# Serves a policy on this machine for `inference_eval.py --engine sglang_server`: one SGLang server for
# each GPU (or TP_SIZE of them) and, if there are several, SGLang's router in front, which sends a
# request to the server that has its prefix in the cache. Prints the URL for --sglang_url when all
# are ready, and stops them when it ends.
#
#     scripts/serve_policy.sh deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
#     TP_SIZE=2 scripts/serve_policy.sh deepseek-ai/DeepSeek-R1-Distill-Qwen-14B --context-length 32768
#
# Arguments: the model (hub id or folder), then arguments that go to every server as they are
# (`python -m sglang.launch_server --help`).
#
# Environment:
#     HOST            address to listen at, 127.0.0.1 by default; 0.0.0.0 for other machines, with an
#                     API_KEY. Servers behind a router are for this machine alone
#     API_KEY         the key that a request must have. It stands in no list of processes or jobs and
#                     in no log, if it isn't typed there:
#                         (umask 077 && openssl rand -hex 32 >key) && export API_KEY=$(<key)
#                     and for a search, under Slurm, too: --api_key @key. Without it, servers tell
#                     whether they are well, the router also its models
#     PORT            of the URL, 30000 by default; servers behind a router take the ports after it
#     CUDA_VISIBLE_DEVICES  GPUs to use; all by default
#     TP_SIZE         GPUs of one server, 1 by default
#     NUM_SERVERS     by default as many as the GPUs suffice for, or 1 (on the CPU) without any
#     GPU_UTIL        share of GPU memory of a server, 0.75 by default
#     DETERMINISTIC   1 (default): a request's seed decides its tokens, whatever else is served, at
#                     some cost in speed; 0: seeds are ignored, no run can be repeated
#     LOG_DIR         of the servers' output, outputs/serve_policy by default
#     READY_TIMEOUT   seconds until all must be ready, 1800 by default
#     MAX_RESTARTS    of servers that fail after that, 20 by default
#
# A server or router that fails before all are ready ends everything, with status 1. Later it is
# started again in place; clients try again meanwhile. Several machines: start this on each with
# HOST=0.0.0.0 and the same API_KEY, and give every URL with a --sglang_url of its own.
#
# torch has each server listen at one more port, at all addresses whatever HOST says and without a
# key: only a firewall keeps strangers from it.
set -euo pipefail
program=serve_policy.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/serve.sh"

[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || fail "the first argument is the model: hub id or folder"
find_python
"$python" -c 'import importlib.util as i; exit(not i.find_spec("sglang"))' ||
    fail "there is no SGLang: pip install -r requirements-gpu.txt -c constraints.txt"
find_servers 30000 outputs/serve_policy

server_command=(sglang.launch_server --model-path "$1" --skip-tokenizer-init)
[ "${DETERMINISTIC:-1}" = 0 ] || server_command+=(--enable-deterministic-inference)
# Earlier searches first, and nothing is thrown out that runs. Most orders of the queue that could be
# asked for know no priorities.
case " $* " in
*" --schedule-policy"*) ;;
*) server_command+=(--enable-priority-scheduling --disable-priority-preemption
    --default-priority-value 0) ;;
esac
# Seconds until a server drops the requests of a connection that was closed, 4 by default.
export SGLANG_REQUEST_STATE_WAIT_TIMEOUT=${SGLANG_REQUEST_STATE_WAIT_TIMEOUT:-1}
if [ ${#gpus[@]} -gt 0 ]; then
    server_command+=(--mem-fraction-static "${GPU_UTIL:-0.75}")
else
    export SGLANG_USE_CPU_ENGINE=1
    server_command+=(--device cpu --attention-backend torch_native --dtype float32
        --max-total-tokens 65536)
fi
router_options=(--policy cache_aware --request-timeout-secs 3600 --worker-startup-check-interval 2
    --health-check-interval-secs 10)
serve --sglang_url "$@"
