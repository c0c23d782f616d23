"""Compares policies: their accuracy alone and guided by a value model, and what training took.

    python -m scripts.dvo_table --folder outputs/dvo_quickstart --policies base sft rft round_1

Of each policy `NAME`, FOLDER/evaluation/NAME/plain is a run of inference_eval.py with independent
samples (`--search_type bon`), and FOLDER/evaluation/NAME/guided, if it is there, one of guided
search. FOLDER/NAME is the run that trained it, if one did.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loggers import METRICS_FILE, read_metrics
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.text import format_table
from scripts.compare import format_point, load_run
from search_lib.results.selection import Selection

PROGRAM = "scripts.dvo_table"


@dataclass(frozen=True)
class Args:
    """Compare policies."""

    folder: Path
    """Folder of the evaluations and trainings."""
    policies: tuple[str, ...]
    """Their names, in the order of the table."""


def accuracy(run: Path, method: str) -> str:
    """Returns the accuracy of a run at its largest budget, with the budget if it is a vote's.

    Raises:
        ValueError: If the run has not ended, or not this method.
    """
    curve = load_run(Selection(run.parent.name, run, method, True)).curves[method]
    budget = max(curve)
    return format_point(curve[budget]) + ("" if method == "pass@1" else f" @{budget}")


def training_cost(run: Path) -> tuple[str, str]:
    """Returns the steps and the trained tokens of a training, empty for a folder without one.

    Raises:
        ValueError: If its metrics are damaged.
    """
    if not (run / METRICS_FILE).exists():
        return "", ""
    last, tokens = 0, 0.0
    for step, line in read_metrics(run).items():
        if (total := line.get("train/tokens/trained")) is not None:  # of TRL: since the start
            last, tokens = step, total
        elif (mean := line.get("train/loss_tokens")) is not None:  # of a step, since the last line
            last, tokens = step, tokens + mean * (step - last)
    return f"{last:,}", f"{tokens:,.0f}"


def compare(args: Args) -> None:
    """Prints the table.

    Raises:
        InputError: If a policy has no evaluation that has ended.
    """
    lines = []
    for name in args.policies:
        runs = args.folder / "evaluation" / name
        if not runs.is_dir():
            raise InputError(f"--policies {name}: there is no {runs}")
        with naming(f"--policies {name}:"):
            plain = [accuracy(runs / "plain", method) for method in ("pass@1", "MV")]
            guided = accuracy(runs / "guided", "WMV") if (runs / "guided").is_dir() else ""
            lines.append([name, *plain, guided, *training_cost(args.folder / name)])
    print(format_table(["policy", "alone", "MV", "VGS", "steps", "trained tokens"], lines))
    print("accuracy in % ± 95 % interval over problems; @ budget")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: compare(args))


if __name__ == "__main__":
    main()
