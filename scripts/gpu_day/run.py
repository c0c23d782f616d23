"""Everything that only a GPU can show, within nine minutes: one JSON.

    scripts/gpu_day.sh --wheels wheels gpu_day.json

| step | measures |
|---|---|
| `machine` | GPU and versions |
| `tests` | tests/test_gpu.py |
| `training` | a step of 1.5B parameters at 16,384 tokens, in each layout, by each attention |
| `scorer` | values in bfloat16 against float32, tokens a second |
| `flex` | FlexAttention's backward pass on rows of changing lengths: compilation, time, error |
| `memory` | smaller micro batches, a scorer with a full cache |
| `search` | searches with random weights: tokens a second, busy share, cost |

Without a GPU the steps take tiny shapes, which shows that they run. Each has a process and a time
of its own, and the file is written anew, whole, after every row: whatever fails, hangs or is
killed, the rest stands. The status of a step is `ok`, `failed`, `timed out` or `skipped`; after a
run that was killed also `running` or `not run`. Its rows come with any of them. At the end the
figures are printed as Markdown, as `python -m scripts.gpu_day.table gpu_day.json` does. The exit
status is 1 if a step failed.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from run_lib.commands import InputError, parse_command_line, run_command
from run_lib.files import write_json
from run_lib.text import some_of
from scripts.gpu_day.processes import Figures, process_context, run_step
from scripts.gpu_day.table import as_markdown

PROGRAM = "scripts/gpu_day.sh"
STEPS = "scripts.gpu_day.steps"
LIMITS = {
    "machine": 40,
    "tests": 75,
    "training": 130,
    "scorer": 65,
    "flex": 85,
    "memory": 60,
    "search": 70,
}
"""Seconds of each step, in their order; nine minutes in all, with a margin. Those that one leaves,
as it ends early or isn't asked for, the next ones may use."""
PRELOAD = [f"{STEPS}.{step}" for step in ("training", "scorer", "search")]


@dataclass(frozen=True)
class Args:
    """Measures what only a GPU can show."""

    output: Annotated[Path, tyro.conf.Positional]
    """The JSON file."""
    steps: tuple[str, ...] = tuple(LIMITS)
    """Steps to run; the others are skipped."""


def main(args: Args) -> int:
    """Runs the steps. Returns the exit status; 1 if one of them failed.

    Raises:
        InputError: For a step that there isn't, or a file that is there already.
    """
    if unknown := sorted(set(args.steps) - LIMITS.keys()):
        raise InputError(f"--steps has no {some_of(unknown)}; the steps are {', '.join(LIMITS)}")
    if args.output.exists():
        raise InputError(f"{args.output} is there already: its figures would be lost")
    start = time.monotonic()
    steps: dict[str, dict[str, Any]] = {
        name: {"status": "not run", "reason": None, "seconds": None, "rows": []} for name in LIMITS
    }
    document = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "steps": steps,
    }

    def save() -> None:
        document["seconds"] = round(time.monotonic() - start, 1)
        write_json(args.output, document)

    args.output.parent.mkdir(parents=True, exist_ok=True)
    save()
    context = process_context(PRELOAD)
    end = start
    for name, step in steps.items():
        end += LIMITS[name]
        if name not in args.steps:
            step |= {"status": "skipped", "reason": "not asked for"}
            continue

        def add(row: Figures, rows: list[Figures] = step["rows"]) -> None:
            rows.append(row)
            save()

        step["status"] = "running"
        save()
        limit = end - time.monotonic()
        print(f"\n{name}, {limit:.0f} s at most", flush=True)
        outcome = run_step(context, f"{STEPS}.{name}", limit, add)
        step |= outcome._asdict()
        save()
        print(f"{name}: {outcome.status} {outcome.reason or ''}", flush=True)
    save()
    print(f"\n{as_markdown(document)}")
    return int(any(step["status"] in ("failed", "timed out") for step in steps.values()))


if __name__ == "__main__":
    arguments = parse_command_line(Args, PROGRAM, __doc__)
    # Not at once: the step that is running has to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run_command(PROGRAM, lambda: main(arguments))
