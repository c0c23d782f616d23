# What the scripts that serve a model share: one SGLang server or several, and SGLang's router before
# several. Sourced with `program` set to the script's name; then, in this order, `find_servers`,
# the arrays `server_command`, a module and its arguments, and `router_options`, and `serve`.
# shellcheck shell=bash disable=SC2034,SC2154

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Reads the environment. Usage: find_servers DEFAULT_PORT DEFAULT_LOG_DIR
# Sets host, port, tp_size, log_dir, num_servers, gpus to the numbers of the GPUs to use, and
# run_module to what runs a module of Python.
find_servers() {
    host=${HOST:-127.0.0.1}
    [ "$host" != localhost ] || host=127.0.0.1 # the router knows numbers alone
    run_module=("$python" -m)
    check_address
    port=${PORT:-$1}
    tp_size=${TP_SIZE:-1}
    log_dir=${LOG_DIR:-$2}
    gpus=()
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    else
        mapfile -t gpus < <(nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p')
    fi
    num_servers=${NUM_SERVERS:-1}
    if [ ${#gpus[@]} -gt 0 ]; then
        [ ${#gpus[@]} -ge "$tp_size" ] || fail "TP_SIZE is $tp_size, and there are ${#gpus[@]} GPUs"
        num_servers=${NUM_SERVERS:-$((${#gpus[@]} / tp_size))}
        [ $((num_servers * tp_size)) -le ${#gpus[@]} ] ||
            fail "$num_servers servers of TP_SIZE=$tp_size GPUs each, and there are ${#gpus[@]} GPUs"
    fi
    [ "$num_servers" -ge 1 ] || fail "NUM_SERVERS is $num_servers"
    mkdir -p "$log_dir" || fail "LOG_DIR $log_dir cannot be made"
}

# Ends the script if other machines could reach servers that ask for no key. Servers with a key are
# started such that it stands in no list of processes.
check_address() {
    local LC_ALL=C
    if [ -n "${API_KEY:-}" ]; then
        [[ $API_KEY =~ ^[!-~]+$ ]] ||
            fail "API_KEY must be visible ASCII characters without blanks"
        export API_KEY
        run_module=("$python" "$root/scripts/lib/with_key.py")
    else
        [[ $host =~ ^(127(\.[0-9]{1,3}){3}|::1)$ ]] ||
            fail "HOST $host can be reached from other machines: that needs a key, in API_KEY"
    fi
}

# Ends the script if an argument for the servers goes around the check of the address.
refuse_address() {
    local argument
    for argument in "$@"; do
        case $argument in # also as SGLang understands them when they are cut short
        --ho*) fail "the address is HOST, and no argument" ;;
        --ap* | --adm*) fail "the key is API_KEY, and no argument: every user could list it" ;;
        esac
    done
}

# Servers and router are numbered: servers from 0, the router is the last one.
name() { if [ "$1" -eq "$num_servers" ]; then echo router; else echo "server_$1"; fi; }
in_url() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }
server_port() { echo $((num_servers == 1 ? port : port + 1 + $1)); }

# Sets nccl_ports to a port for the processes of each server. They bind it many seconds later, and SGLang
# itself would take one that any program may be given by then.
find_nccl_ports() {
    mapfile -t nccl_ports < <(cd "$root" && "$python" -c '
import sys
from run_lib.ports import free_port
first, servers = map(int, sys.argv[1:])
promised = [*range(first, first + servers + 2)]
for _ in range(servers):
    promised.append(free_port(*promised))
    print(promised[-1])' "$port" "$num_servers")
    [ ${#nccl_ports[@]} -eq "$num_servers" ] || fail "no free ports were found" 1
}

# Starts the server or router of a number. Each leads a process group of its own, so that none of
# its workers outlives it.
start() {
    local command gpus_of_server=("${gpus[@]:$1*tp_size:tp_size}")
    if [ "$1" -eq "$num_servers" ]; then
        command=(sglang_router.launch_router --host "$(in_url "$host")" --port "$port"
            --prometheus-host 127.0.0.1 --prometheus-port $((port + num_servers + 1))
            --shutdown-grace-period-secs 2
            "${router_options[@]}" --worker-urls "${server_urls[@]}")
    else
        command=("${server_command[@]}" --tp-size "$tp_size" --port "$(server_port "$1")"
            --host "$([ "$num_servers" -eq 1 ] && echo "$host" || echo 127.0.0.1)")
        case " ${arguments[*]} " in
        *" --dp"* | *" --da"*) ;; # --data-parallel-size: each of the schedulers has a port of its own
        *) command+=(--nccl-port "${nccl_ports[$1]}") ;;
        esac
        command+=("${arguments[@]}")
    fi
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus_of_server[*]}") \
        setsid "${run_module[@]}" "${command[@]}" >>"$log_dir/$(name "$1").log" 2>&1 </dev/null &
    pids[$1]=$!
}

stop() {
    trap - EXIT
    trap '' INT TERM # who signals a whole group does it twice, and none must be left
    exec 2>/dev/null # or bash would report every process that is killed
    local signal pid running
    for signal in TERM KILL; do
        for pid in "${pids[@]}"; do kill -s "$signal" -- "-$pid" || true; done
        for _ in {1..50}; do
            running=0
            for pid in "${pids[@]}"; do ! kill -0 -- "-$pid" || running=1; done
            [ "$running" = 1 ] || return 0
            sleep 0.1
        done
    done
}

# Waits a second; unlike `sleep`, it is ended by a signal.
nap() {
    sleep 1 &
    wait $!
}

# Tells whether a page can be read and has a text. Usage: says URL TEXT
says() {
    "$python" - "$@" <<'PYTHON' 2>/dev/null &
import sys
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
page = opener.open(sys.argv[1], timeout=10).read().decode()
sys.exit(sys.argv[2] not in page)
PYTHON
    wait $!
}

# Waits for a server or router; if one has failed, the script ends. Usage: await NUMBER URL TEXT
await() {
    local log number
    until says "$2" "$3"; do
        for number in "${!pids[@]}"; do
            log=$log_dir/$(name "$number").log
            kill -0 "${pids[number]}" 2>/dev/null ||
                fail "$(name "$number") has ended: $(tail -n 1 "$log") (all of it: $log)" 1
        done
        [ "$SECONDS" -lt "${READY_TIMEOUT:-1800}" ] ||
            fail "$(name "$1") is not ready; see $log_dir/$(name "$1").log" 1
        nap
    done
}

# Runs the servers until this script is stopped. Usage: serve FLAG MODEL ARGUMENT...
# FLAG is that of the commands that takes the URL; the arguments go to every server.
serve() {
    local flag=$1 model=$2 n restarts=0
    local reachable
    reachable=$(in_url "$host")
    case $host in
    0.0.0.0) reachable=127.0.0.1 ;;
    ::) reachable="[::1]" ;;
    esac
    refuse_address "${@:3}"
    arguments=("${@:3}") pids=() server_urls=()
    find_nccl_ports
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    echo "starting $num_servers server(s) of $model, logs in $log_dir" >&2
    for ((n = 0; n < num_servers; n++)); do
        : >"$log_dir/server_$n.log"
        start "$n"
        server_urls+=("http://127.0.0.1:$(server_port "$n")")
    done
    [ "$num_servers" -gt 1 ] || server_urls=("http://$reachable:$port")
    for ((n = 0; n < num_servers; n++)); do await "$n" "${server_urls[n]}/health" ""; done
    if [ "$num_servers" -gt 1 ]; then
        : >"$log_dir/router.log"
        start "$num_servers"
        await "$num_servers" "http://$reachable:$port/readiness" "\"healthy_workers\":$num_servers"
    fi
    case $host in 0.0.0.0 | ::) reachable=$(hostname -f) ;; esac
    echo "ready: $num_servers server(s); $flag http://$reachable:$port"

    while nap; do
        for n in "${!pids[@]}"; do
            ! kill -0 "${pids[n]}" 2>/dev/null || continue
            restarts=$((restarts + 1))
            [ "$restarts" -le "${MAX_RESTARTS:-20}" ] || fail "failed $restarts times; see $log_dir" 1
            kill -s KILL -- "-${pids[n]}" 2>/dev/null || true
            echo "started again: $(name "$n")"
            start "$n"
        done
    done
}
