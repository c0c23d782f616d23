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
#     HOST                  address it listens at, 127.0.0.1 by default; 0.0.0.0 for other machines.
#                           The servers behind a router are for this machine alone
#     CUDA_VISIBLE_DEVICES  GPUs to use; all by default
#     TP_SIZE               GPUs of one server, 1 by default
#     NUM_SERVERS           by default as many as there are GPUs for, or 1 without any (on the CPU)
#     LOG_DIR               of what they say, outputs/serve_value_model by default
#     MAX_RESTARTS          of servers that end after all were ready, 20 by default
#
# The router keeps all paths of a prompt on one server, whose cache has their prefixes. It goes by the
# key that the search sends along (policy manual): its policy cache_aware reads texts only, and sends
# token ids for valuing to one server or to the idlest, whatever that has in its cache.
#
# A server or router that ends before all are ready ends everything, with status 1. Later it is
# started again in place; the searches try again meanwhile.
set -euo pipefail

fail() {
    echo "serve_value_model.sh: error: $1" >&2
    exit "${2:-2}"
}

[ $# -gt 0 ] || fail "no value model: give a folder or hub id as the first argument"
model=$1
shift
port=${PORT:-30100}
host=${HOST:-127.0.0.1}
logs=${LOG_DIR:-outputs/serve_value_model}
tp_size=${TP_SIZE:-1}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python
command -v "$python" >/dev/null || fail "there is neither $root/.venv/bin/python nor python"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

gpus=()
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi
if [ ${#gpus[@]} -gt 0 ]; then
    num_servers=${NUM_SERVERS:-$((${#gpus[@]} / tp_size))}
    [ "$num_servers" -gt 0 ] && [ $((num_servers * tp_size)) -le ${#gpus[@]} ] ||
        fail "${NUM_SERVERS:-1} servers of TP_SIZE=$tp_size GPUs each, and there are ${#gpus[@]} GPUs"
else
    num_servers=${NUM_SERVERS:-1}
fi
mkdir -p "$logs" || fail "LOG_DIR $logs cannot be made"

servers=$num_servers
[ "$num_servers" -eq 1 ] || servers=$((num_servers + 1))  # the last one is the router
reachable=${host/#0.0.0.0/127.0.0.1}
pids=()

start() { # number of a server
    local command=("$python" -m classifier_lib.serve --model "$model" --end_with_parent)
    if [ "$1" -eq "$num_servers" ]; then
        command=("$python" -m sglang_router.launch_router --host "$host" --port "$port"
            --policy manual --assignment-mode min_group --worker-startup-check-interval 1
            --prometheus-port $((port + num_servers + 1)) --shutdown-grace-period-secs 2 --worker-urls)
        for ((i = 1; i <= num_servers; i++)); do command+=("http://127.0.0.1:$((port + i))"); done
    else
        command+=(--tp-size "$tp_size")
        if [ "$num_servers" -eq 1 ]; then
            command+=(--host "$host" --port "$port")
        else
            command+=(--host 127.0.0.1 --port $((port + 1 + $1)))
        fi
        command+=("${arguments[@]}")
    fi
    local gpus_of_server=("${gpus[@]:$1*tp_size:tp_size}")
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus_of_server[*]}") \
        "${command[@]}" >>"$logs/$(name "$1").log" 2>&1 </dev/null &
    pids[$1]=$!
}
name() { [ "$1" -eq "$num_servers" ] && echo router || echo "server_$1"; }
stop() {
    kill "${pids[@]}" ${waiter:-} 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

arguments=("$@")
for ((n = 0; n < servers; n++)); do
    : >"$logs/$(name $n).log"
    start $n
done
echo "starting $num_servers server(s) of $model, logs in $logs"

"$python" - "http://$reachable:$port" "$num_servers" <<'PYTHON' &
import sys, time, urllib.request

url, num_servers = sys.argv[1:]
page, sign = ("ready", "") if num_servers == "1" else ("readiness", f'"healthy_workers":{num_servers}')
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        if sign in opener.open(f"{url}/{page}", timeout=5).read().decode():
            break
    except OSError:
        pass
    time.sleep(0.5)
PYTHON
waiter=$!

restarts=0
while true; do
    wait -n || true
    for n in "${!pids[@]}"; do
        ! kill -0 "${pids[n]}" 2>/dev/null || continue
        log=$logs/$(name "$n").log
        [ -z "$waiter" ] || fail "$(name "$n") has ended: $(tail -n 1 "$log") (all of it: $log)" 1
        restarts=$((restarts + 1))
        [ $restarts -le "${MAX_RESTARTS:-20}" ] || fail "ended $restarts times; see $logs" 1
        echo "started again: $(name "$n")"
        sleep 1
        start "$n"
    done
    if [ -n "$waiter" ] && ! kill -0 "$waiter" 2>/dev/null; then
        waiter=
        [ "$host" != 0.0.0.0 ] || reachable=$(hostname -f)
        echo "ready: $num_servers server(s); --scorer_url http://$reachable:$port"
    fi
done
