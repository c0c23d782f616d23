#!/usr/bin/env bash
# Everything that only a GPU can show, measured within nine minutes: one JSON. Without a GPU the same on
# tiny shapes.
#
#     scripts/gpu_day.sh gpu_day.json
#     scripts/gpu_day.sh --wheels wheels gpu_day.json --steps flex search
#
# --wheels is a folder of wheels for a Python that lacks what scripts/gpu_day/requirements.txt lists;
# PYTHON chooses the interpreter, by default that of .venv or of the PATH.
set -euo pipefail
program=gpu_day.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

path=$root
if [ "${1:-}" = --wheels ]; then
    for wheel in "${2:-}"/*.whl; do
        [ -f "$wheel" ] || fail "--wheels ${2:-} holds no wheels"
        path=$path:$(realpath "$wheel") # pure Python: imported as they are
    done
    shift 2
fi
python=${PYTHON:-}
[ -n "$python" ] || find_python
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
missing=$("$python" -c '
from importlib.util import find_spec
names = "torch", "transformers", "pyarrow", "pytest", "tyro", "docstring_parser", "typeguard"
print(*(name for name in names if not find_spec(name)))')
[ -z "$missing" ] || fail "$python lacks $missing; --wheels can bring pure Python, see docs/performance.md"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$python" -m scripts.gpu_day.run "$@"
