#!/usr/bin/env bash
# Makes .venv with this project (editable), what its tests need at the versions of constraints.txt, and
# SGLang as far as tests on a CPU need it, unless the one for CUDA is there (requirements-gpu.txt).
# Does nothing when they are installed already. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$({ sed '/^\[tool\.ruff\]/,$d' pyproject.toml && cat requirements-*.txt constraints.txt; } | cksum)
stamp=.venv/installed
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "Installing into .venv (a few minutes the first time)"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
install() {
    .venv/bin/python -m pip install --quiet -c constraints.txt "$@"
}
if .venv/bin/python -c 'import importlib.util as i; exit(not i.find_spec("sgl_kernel"))'; then
    install -r requirements-dev.txt
else
    install -r requirements-dev.txt -r requirements-sglang-cpu.txt
    install --no-deps sglang sglang-router xgrammar
fi
echo "$wanted" >"$stamp"
