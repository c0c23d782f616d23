"""Commands run as their user runs them, with the modules that they import: a program of its own.

It reads a JSON object from standard input, the arguments by command, and writes one with what
`Started` holds by command. Each runs in a fork, which has little more than the flags' own parser.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

HEAVY = frozenset(
    {
        *("torch", "transformers", "tokenizers", "huggingface_hub", "datasets", "torchmetrics"),
        *("pyarrow", "pandas", "scipy", "sklearn", "sympy", "math_verify", "matplotlib"),
        *("aiohttp", "sglang", "trl", "accelerate"),
    }
)
"""What takes a tenth of a second, or seconds. Half a dozen commands that need no model were once
slower by ten times for one of these."""


class Started(NamedTuple):
    """How a command went.

    Attributes:
        status: Its exit status.
        error: What it wrote to standard error.
        heavy: What it has imported of `HEAVY`.
        num_modules: All that it has imported, Python's own modules included.
    """

    status: int
    error: str
    heavy: list[str]
    num_modules: int


def start(
    commands: Mapping[str, Sequence[Sequence[Any]]], folder: Path
) -> dict[str, list[Started]]:
    """Runs commands, each in a process of its own.

    Args:
        commands: By name, the words of the command lines that one process runs in this order: a
            file or module, and its arguments.
        folder: An empty folder for what they print.
    """
    lines = {name: [[*map(str, words)] for words in group] for name, group in commands.items()}
    found = subprocess.run(
        [sys.executable, __file__, str(folder)],
        input=json.dumps(lines),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {
        name: [Started(*one) for one in group] for name, group in json.loads(found.stdout).items()
    }


def _run(words: Sequence[str]) -> int:
    """Runs one command here. Returns its status."""
    sys.argv = [*words]
    try:
        if words[0].endswith(".py"):
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _run_forked(group: Sequence[Sequence[str]], folder: Path) -> list[Started]:
    """Runs command lines one after the other in a fork of this process."""
    error, report = folder / "error", folder / "report"
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(error, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 2)
        found = []
        for words in group:
            os.truncate(error, 0)
            os.lseek(2, 0, os.SEEK_SET)
            status = _run(words)
            imported = [name for name, module in sys.modules.items() if module is not None]
            heavy = sorted(HEAVY.intersection(imported))
            found.append(Started(status, error.read_text(), heavy, len(imported)))
        report.write_text(json.dumps(found))
        os._exit(0)
    os.waitpid(child, 0)
    if not report.exists():
        raise RuntimeError(f"{group} ended early: {error.read_text()}")
    return [Started(*one) for one in json.loads(report.read_text())]


def main() -> None:
    """Runs the commands of standard input."""
    # What most commands have, once.
    import numpy  # noqa: F401

    import run_lib.commands  # noqa: F401

    commands = json.load(sys.stdin)
    folder = Path(sys.argv[1])
    json.dump({name: _run_forked(group, folder) for name, group in commands.items()}, sys.stdout)


if __name__ == "__main__":
    main()
