#!/usr/bin/env bash
# Makes .venv with requirements.txt and requirements-dev.txt at the versions of constraints.txt.
# Does nothing when they are installed already. PYTHON chooses the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=$(cat requirements.txt requirements-dev.txt constraints.txt | cksum)
stamp=.venv/installed
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "Installing into .venv (a few minutes the first time)"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt -c constraints.txt
echo "$wanted" >"$stamp"
