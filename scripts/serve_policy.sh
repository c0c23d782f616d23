#!/usr/bin/env bash
# Serves a policy on this machine for `inference_eval.py --engine sglang_server`: one SGLang server for
# each GPU (or TP_SIZE of them) and, if there are several, SGLang's router in front, which sends a
# request to the server that has its prefix in the cache. Prints the URL for --sglang_url when all
# are ready, and stops them when it ends.
#
#     scripts/serve_policy.sh deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
#     TP_SIZE=2 scripts/serve_policy.sh deepseek-ai/DeepSeek-R1-Distill-Qwen-14B --context-length 32768
#
# Arguments: the model (hub id or folder), then whatever goes to every server as it is.
#
# Environment:
#     HOST            address to listen at, 127.0.0.1 by default; 0.0.0.0 for other machines
#     PORT            of the URL, 30000 by default; servers behind a router take the ports after it
#     TP_SIZE         GPUs of one server, 1 by default
#     NUM_SERVERS     by default as many as the GPUs suffice for, or 1 (on the CPU) without any
#     GPU_UTIL        share of GPU memory of a server, 0.75 by default
#     DETERMINISTIC   1 (default): a request's seed decides its tokens, whatever else is served, at
#                     some cost in speed; 0: seeds are ignored, no run can be repeated
#     LOG_DIR         of the servers' output, outputs/serve_policy by default
#     READY_TIMEOUT   seconds until all must be ready, 1800 by default
#     MAX_RESTARTS    of servers that fail after that, 20 by default
#
# A server that fails is started again in place; clients try again meanwhile. Several machines: start
# this on each with HOST=0.0.0.0, and give every URL with a --sglang_url of its own.
set -euo pipefail

fail() {
    echo "serve_policy.sh: error: $1" >&2
    exit "${2:-2}"
}

[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || fail "the first argument is the model: hub id or folder"
model=$1
shift

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python
command -v "$python" >/dev/null || fail "there is neither $root/.venv/bin/python nor python"
"$python" -c 'import importlib.util as i; exit(not i.find_spec("sglang"))' ||
    fail "there is no SGLang: pip install -r requirements-gpu.txt -c constraints.txt"

host=${HOST:-127.0.0.1}
port=${PORT:-30000}
tp_size=${TP_SIZE:-1}
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    num_gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
else
    num_gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
fi
options=(--model-path "$model" --skip-tokenizer-init --host "$host" --tp-size "$tp_size")
[ "${DETERMINISTIC:-1}" = 0 ] || options+=(--enable-deterministic-inference)
if [ "$num_gpus" -gt 0 ]; then
    options+=(--mem-fraction-static "${GPU_UTIL:-0.75}")
    [ "$num_gpus" -ge "$tp_size" ] || fail "TP_SIZE is $tp_size, and there are $num_gpus GPUs"
else
    export SGLANG_USE_CPU_ENGINE=1
    options+=(--device cpu --attention-backend torch_native --dtype float32 --max-total-tokens 65536)
fi
num_servers=${NUM_SERVERS:-$((num_gpus > 0 ? num_gpus / tp_size : 1))}
[ "$num_servers" -ge 1 ] || fail "NUM_SERVERS is $num_servers"
log_dir=${LOG_DIR:-outputs/serve_policy}
mkdir -p "$log_dir"

# Every server leads a process group of its own, so that none of its workers outlives it.
pids=()
stop() {
    trap - EXIT INT TERM
    exec 2>/dev/null  # or bash would report every process that is killed
    for signal in TERM KILL; do
        for pid in "${pids[@]}"; do kill -s "$signal" -- "-$pid" 2>/dev/null || true; done
        for _ in $(seq 50); do
            running=0
            for pid in "${pids[@]}"; do ! kill -0 -- "-$pid" 2>/dev/null || running=1; done
            [ "$running" = 1 ] || return 0
            sleep 0.1
        done
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Server i of 0, 1, ... into pids[i]; the router is the last one.
start_server() {
    local gpus=()
    [ "$num_gpus" -eq 0 ] || gpus=(--base-gpu-id $(($1 * tp_size)))
    setsid "$python" -m sglang.launch_server "${options[@]}" --port "$(server_port "$1")" \
        "${gpus[@]}" "${arguments[@]}" >>"$log_dir/server_$1.log" 2>&1 </dev/null &
    pids[$1]=$!
}

start_router() {
    local urls=()
    for i in $(seq 0 $((num_servers - 1))); do urls+=("http://$reachable:$(server_port "$i")"); done
    setsid "$python" -m sglang_router.launch_router --host "$host" --port "$port" \
        --worker-urls "${urls[@]}" --policy cache_aware --request-timeout-secs 3600 \
        --worker-startup-check-interval 2 --health-check-interval-secs 10 \
        --shutdown-grace-period-secs 2 --prometheus-port "$((port + num_servers + 1))" \
        >>"$log_dir/router.log" 2>&1 </dev/null &
    pids[num_servers]=$!
}

server_port() { echo $((num_servers == 1 ? port : port + 1 + $1)); }

is_ready() {
    "$python" - "http://$reachable:$1/$2" <<'PYTHON' 2>/dev/null
import sys
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open(sys.argv[1], timeout=10)
PYTHON
}

wait_until_ready() { # name, pid, port, path
    until is_ready "$3" "$4"; do
        kill -0 "$2" 2>/dev/null || fail "$1 has failed; see $log_dir/$1.log" 1
        [ "$SECONDS" -lt "${READY_TIMEOUT:-1800}" ] || fail "$1 is not ready; see $log_dir/$1.log" 1
        sleep 1
    done
}

arguments=("$@")
reachable=$host
[ "$host" != 0.0.0.0 ] || reachable=127.0.0.1
for i in $(seq 0 $((num_servers - 1))); do start_server "$i"; done
for i in $(seq 0 $((num_servers - 1))); do
    wait_until_ready "server_$i" "${pids[$i]}" "$(server_port "$i")" health
done
if [ "$num_servers" -gt 1 ]; then
    start_router
    wait_until_ready router "${pids[$num_servers]}" "$port" readiness
fi
[ "$host" != 0.0.0.0 ] || reachable=$(hostname -f)
echo "ready: $num_servers server(s), logs in $log_dir; --sglang_url http://$reachable:$port"

restarts=0
while true; do
    wait -n || true
    for i in "${!pids[@]}"; do
        ! kill -0 "${pids[$i]}" 2>/dev/null || continue
        restarts=$((restarts + 1))
        [ "$restarts" -le "${MAX_RESTARTS:-20}" ] || fail "failed $restarts times; see $log_dir" 1
        kill -s KILL -- "-${pids[$i]}" 2>/dev/null || true
        echo "started again: $([ "$i" = "$num_servers" ] && echo router || echo "server_$i")"
        if [ "$i" = "$num_servers" ]; then start_router; else start_server "$i"; fi
        sleep 1
    done
done
