# Sourced by the scripts that other machines or users start; `program` is set to the script's name.
# shellcheck shell=bash disable=SC2154

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Ends the script with an error. Usage: fail MESSAGE [STATUS]
fail() {
    echo "$program: error: $1" >&2
    exit "${2:-2}"
}

# Sets `python` to the interpreter of .venv, or without one to that of the PATH.
find_python() {
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=python
    command -v "$python" >/dev/null || fail "there is neither $root/.venv/bin/python nor python"
}
