"""Runs search settings side by side: strategies x scorers x budgets x seeds of one YAML file.

    python -m scripts.sweep scripts/sweeps/toy.yaml --output outputs/sweep

Every cell is a run of inference_eval.py in a folder of its own, with the flags that `--dry_run`
prints; cells in a row share the models that they have in common. Killed at any moment, the same
command goes on. On n machines with a common folder each has `--shard i/n`; the same command without
it then finds all cells done. It ends with one table (table.txt), the accuracy-cost frontier
(frontier.png) and the page of scripts/report.py (report.html, of the first seed).
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from run_lib.commands import (
    InputError,
    RunStopped,
    naming,
    parse_command_line,
    parse_shard,
    run_command,
)
from run_lib.files import replace_file
from run_lib.text import one_line
from scripts import frontier, report
from scripts.sweeps.plan import Cell, Sweep, read_sweep, shard_of
from scripts.sweeps.table import format_settings, load_settings, plotted

PROGRAM = "scripts.sweep"

LEGEND = """\
accuracy in % ± 95 % interval over problems, mean over the seeds; costs a problem: seconds at the
run's throughput, FLOPs with the value model where it takes part. Differences to the weighted vote
of the baseline are paired by problem. Equal FLOPs: with as many trees as the baseline's FLOPs pay
for, of any budget of the sweep; (all): all of its trees cost no more."""


@dataclass(frozen=True)
class Args:
    """A sweep over settings of a search."""

    plan: tyro.conf.Positional[Path]
    """The YAML file: see docs/search.md."""
    output: Path
    """Folder of the runs and of what is made of them."""
    shard: str = "0/1"
    """Part i/n of the cells, i from 0, for n machines with a common folder."""
    dry_run: bool = False
    """Only prints the commands of the cells."""


def run_cells(sweep: Sweep, index: int, count: int) -> list[str]:
    """Runs the cells of a shard; those that are there already only report.

    Returns:
        What failed, a line each; the other cells went on.
    """
    import inference_eval
    from run_lib.hub import quiet_transformers
    from search_lib.open_models import OpenModels

    quiet_transformers()
    failed = []
    with OpenModels() as models:
        for number, cell in shard_of(sweep.cells, index, count):
            print(f"\n[{number}/{len(sweep.cells)}] {cell.name}", flush=True)
            try:
                if inference_eval.evaluate(cell.args, models):
                    failed.append(f"{cell.name}: some of its searches failed")
            except (InputError, RunStopped) as error:
                failed.append(f"{cell.name}: {one_line(error)}")
    return failed


def is_complete(cell: Cell) -> bool:
    """Whether a cell has ended; a run writes its metrics last."""
    return cell.args.output_path.with_name("metrics.json").is_file()


def report_sweep(sweep: Sweep, output: Path) -> None:
    """Prints the table, and writes it with the plot and the page.

    Raises:
        InputError: If a run can't be read, or the runs are of different problems.
    """
    with naming("PLAN:"):
        settings = load_settings(sweep)
    table = f"{format_settings(settings, sweep)}\n\n{LEGEND}\n"
    print(f"\n{table}")
    replace_file(output / "table.txt", table.encode())
    curves = plotted(settings)
    from scripts.frontier_plot import plot

    plot(curves, frontier.find_optimal(curves), "", output / "frontier.png")
    first_seed = sweep.cells[0].args.seed
    runs = tuple(
        f"{', '.join(filter(None, (cell.strategy, cell.scorer, cell.budget)))}"
        f"={cell.args.output_path.parent}"
        for cell in sweep.cells
        if cell.args.seed == first_seed
    )
    report.main(report.Args(runs, output / "report.html", title=f"Sweep, seed {first_seed}"))


def main(args: Args) -> int:
    """Runs a sweep, or what is left of it. Returns the exit status; 1 if cells failed.

    Raises:
        InputError: If the file can't be read, or a flag in it is wrong.
    """
    index, count = parse_shard(args.shard)
    sweep = read_sweep(args.plan, args.output)
    for line in sweep.left_out:
        print(f"left out: {line}")
    if args.dry_run:
        for _, cell in shard_of(sweep.cells, index, count):
            print(cell.command)
        return 0
    failed = run_cells(sweep, index, count)
    for line in failed:
        print(f"failed: {line}")
    missing = sum(not is_complete(cell) for cell in sweep.cells)
    if failed or missing:
        what = f"{missing} of {len(sweep.cells)} cells have not ended: " if missing else ""
        print(f"{what}there is no table yet")
        return 1 if failed else 0
    report_sweep(sweep, args.output)
    return 0


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args), at_once=True)


if __name__ == "__main__":
    run()
