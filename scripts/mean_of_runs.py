"""Mean and spread of the accuracies of several runs that differ in their seed alone.

    python -m scripts.mean_of_runs --runs outputs/gsm8k/seed-1 outputs/gsm8k/seed-2 \
        outputs/gsm8k/seed-3

Each is the folder of a run of inference_eval.py that has ended. No model is loaded.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from run_lib.commands import InputError, parse_command_line, run_command
from run_lib.settings import free_flags
from run_lib.text import format_table
from search_lib.results.metrics import format_estimate, read_metrics
from search_lib.results.run_config import FORMER_FLAGS, RunConfig
from search_lib.results.statistics import estimate_mean
from search_lib.search_args import Args as SearchArgs

PROGRAM = "scripts.mean_of_runs"

FREE = free_flags(SearchArgs) | FORMER_FLAGS | {"seed", "output_path"}
"""Flags in which the runs may differ."""

Cell = tuple[str, int]
"""(method, budget)."""


@dataclass(frozen=True)
class Args:
    """Mean and spread of several runs."""

    runs: tuple[Path, ...]
    """Their folders, each with the metrics.json of a run that has ended."""


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        path: Its records.
        config: Its configuration.
        accuracies: By method and budget, the accuracy of each problem, in order of their ids.
    """

    path: Path
    config: RunConfig
    accuracies: dict[Cell, list[float]]

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Reads configuration and metrics of a run.

        Raises:
            InputError: If there is no such run, or it lacks metrics or problems.
        """
        path, config = RunConfig.find(folder)
        found = read_metrics(path.with_name("metrics.json"))
        if found is None:
            raise InputError(f"{folder}: there is no metrics.json; has the run ended?")
        complete = len(found.problem_ids) + found.without_reference
        if complete != len(config.problem_ids):
            raise InputError(
                f"{folder}: {complete} of {len(config.problem_ids)} problems are complete; "
                "the command of this run goes on with the others"
            )
        return cls(path, config, {(row.method, row.budget): row.per_problem for row in found.rows})


def check_runs(runs: Sequence[Run]) -> None:
    """Raises InputError unless the runs are of the same settings, and of several seeds."""
    if len(runs) < 2:
        raise InputError("--runs needs at least two: one run has no spread")
    first, *others = runs
    for other in others:
        if differing := first.config.settings.differences(other.config.settings, FREE, "{} and {}"):
            raise InputError(
                f"--runs {first.path} and {other.path} differ in more than their seeds: "
                f"{', '.join(differing)}"
            )
    of_seed: dict[int, Run] = {}
    for run in runs:
        seed = run.config.flags["seed"]
        if seed in of_seed:
            raise InputError(f"--runs {of_seed[seed].path} and {run.path} have one --seed, {seed}")
        of_seed[seed] = run
    cells = [cell for run in runs for cell in run.accuracies]
    for run in runs:
        for method, budget in cells:
            if (method, budget) not in run.accuracies:
                raise InputError(
                    f"--runs {run.path}: its metrics.json has no {method} at budget {budget}"
                )


def format_runs(runs: Sequence[Run]) -> str:
    """Returns a table of accuracies in per cent: a line for a method at a budget, a column a run.

    Behind the runs stand the mean with its intervals, for which runs are repetitions, and the
    sample standard deviation over the runs.
    """
    lines = []
    for method, budget in runs[0].accuracies:
        scores = np.array([run.accuracies[method, budget] for run in runs]).T  # [problems, runs]
        of_runs = 100 * scores.mean(0)
        cells = [f"{accuracy:.1f}" for accuracy in of_runs]
        spread = f"{of_runs.std(ddof=1):.2f}"
        lines.append([method, str(budget), *cells, format_estimate(estimate_mean(scores)), spread])
    seeds = [f"seed {run.config.flags['seed']}" for run in runs]
    return format_table(["", "budget", *seeds, "mean", "std"], lines)


def main(args: Args) -> None:
    """Prints the table.

    Raises:
        InputError: If a run can't be read, or the runs are not repetitions of each other.
    """
    runs = [Run.load(folder) for folder in args.runs]
    check_runs(runs)
    print(format_runs(runs))
    print(
        f"accuracy in %; mean of {len(runs)} runs ± 95 % interval over "
        f"{len(runs[0].config.problem_ids)} problems (over searches on these problems)\n"
        "std: sample standard deviation over runs"
    )


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
