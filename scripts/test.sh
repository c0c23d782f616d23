#!/usr/bin/env bash
# Sets up .venv and runs the checks and all tests. Arguments go to pytest: scripts/test.sh -k beam
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup_env.sh
# The tests are many small processes: one thread each, two at a time.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports --no-cache --no-logo
.venv/bin/mypy
# Tests of one xdist_group share what is slow to start, and so a process.
.venv/bin/python -m pytest -n 2 --dist loadgroup "$@"
