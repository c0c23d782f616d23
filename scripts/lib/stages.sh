# Sourced by scripts that run many commands in a row; `logs` is set to the folder of their output.
# shellcheck shell=bash disable=SC2154

started=$SECONDS
trap 'kill $(jobs -rp) 2>/dev/null || true' EXIT # what runs in parallel does not hear Ctrl-C itself
trap 'exit 130' INT TERM

stage() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$1"; }

# Runs two commands at a time, or $at_once, with one thread each: sampling gains nothing from a second
# thread. Usage: in_parallel name1 "command 1" name2 "command 2" ...; the output goes to $logs/NAME.log.
in_parallel() {
    local names=() pids=() status=0
    while [ $# -gt 0 ]; do
        [ "$(jobs -rp | wc -l)" -lt "${at_once:-2}" ] || wait -n || true
        OMP_NUM_THREADS=1 bash -c "$2" >"$logs/$1.log" 2>&1 &
        names+=("$1") pids+=("$!")
        shift 2
    done
    for i in "${!pids[@]}"; do
        if ! wait "${pids[$i]}"; then
            echo "${names[$i]} failed; the end of $logs/${names[$i]}.log:" >&2
            tail -n 20 "$logs/${names[$i]}.log" >&2
            status=1
        fi
    done
    return $status
}
