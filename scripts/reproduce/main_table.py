"""The main table of the VGS paper: value-guided search against majority voting.

    python -m scripts.reproduce.main_table --dry_run
    python -m scripts.reproduce.main_table --toy

At the budgets N = 256 for DeepSeek-R1-Distill-Qwen-1.5B, 128 for 7B and 64 for 14B, on AIME and
HMMT February of 2024 and 2025. VGS is `beam2` with 8 blocks a tree and a weighted majority vote.
With the policy of 1.5B, a step PRM guides it, too, on the two sets of 2025 (not with --toy).
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from run_lib.commands import parse_command_line, run_command
from run_lib.text import format_table
from scripts.compare import compare
from scripts.reproduce.plan import carry_out
from scripts.reproduce.searches import (
    PRM,
    SAMPLES,
    Scale,
    SearchPlanArgs,
    SearchRun,
    check_flags,
    format_missing,
    mean_point,
    runs_of,
    scale_of,
)
from search_lib.results.metrics import MetricRow, format_estimate

PROGRAM = "scripts.reproduce.main_table"

PUBLISHED = {
    ("1.5B", "aime-25"): ("38.9 ±1.9", "46.7 ±0.7"),
    ("1.5B", "hmmt-feb-25"): ("24.3 ±2.9", "32.8 ±0.8"),
    ("1.5B", "the two of 2025"): ("31.6", "39.8"),
    ("1.5B", "aime-25, by PRM"): ("38.9 ±1.9", "-"),
    ("1.5B", "hmmt-feb-25, by PRM"): ("24.3 ±2.9", "-"),
    ("1.5B", "the two of 2025, by PRM"): ("31.6", "31.6"),
    ("1.5B", "all four"): ("39.7", "45.7"),
    ("7B", "all four"): ("50.5", "56.4"),
    ("14B", "all four"): ("59.6", "61.0"),
}
"""Accuracy in % of (MV, VGS); ± 95 % interval over searches on the same problems."""

Row = tuple[str, MetricRow | None, MetricRow | None]
"""(problem set or mean, MV, VGS)."""


BY_PRM = ", by PRM"
"""Ends the name of a line whose search `PRM` guides."""


def rows_of(baseline: Sequence[SearchRun], guided: Sequence[SearchRun]) -> list[Row]:
    """Returns the lines of a policy: the problem sets of its guided runs, and their means."""
    samples = {run.benchmark: run for run in baseline}
    of_set = {
        vgs.benchmark: (samples[vgs.benchmark].point("MV"), vgs.point("WMV")) for vgs in guided
    }
    means = {
        name: tuple(mean_point(points) for points in zip(*map(of_set.get, members), strict=True))
        for name, members in scale_of(baseline[0].args).means.items()
        if of_set.keys() >= set(members)
    }
    ending = BY_PRM if guided[0].setting.by_prm else ""
    return [(name + ending, *points) for name, points in (of_set | means).items()]


def format_rows(scale: Scale, rows: dict[str, list[Row]]) -> str:
    """Returns the table, and below it the differences of the means."""
    lines, differences = [], []
    for policy in scale.policies:
        for name, mv, vgs in rows[policy.name]:
            label = f"{policy.name}, N = {policy.budget}, {name}"
            published = PUBLISHED.get((policy.name, name), ("-", "-"))
            measured = ["-" if p is None else format_estimate(p.estimate) for p in (mv, vgs)]
            lines.append([label, measured[0], published[0], measured[1], published[1]])
            if name.removesuffix(BY_PRM) in scale.means and mv is not None and vgs is not None:
                differences.append([label, *compare(vgs, mv)])
    header = ["", "MV", "published", "VGS", "published"]
    table = format_table(header, lines) + (
        "\naccuracy in % ± 95 % interval over problems (over searches on these problems, as "
        "published)\npublished -: no figure in the material that this project is built from"
    )
    if scale.prm_sets:
        table += f"\nby PRM: {PRM} in the place of the value model"
    if differences:
        header = ["VGS - MV", "points", "95 % interval", "p", "n", "better", "worse"]
        table += (
            f"\n\n{format_table(header, differences)}\npaired by problem, as in scripts.compare"
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(SearchPlanArgs, PROGRAM, __doc__, argv)
    scale = scale_of(args)
    runs = {
        policy.name: (runs_of(args, policy, SAMPLES), runs_of(args, policy, scale.vgs))
        for policy in scale.policies
    }
    everything = [run for pair in runs.values() for both in pair for run in both]
    first = scale.policies[0]
    by_prm = runs_of(args, first, scale.vgs._replace(by_prm=True))
    everything += by_prm

    def report(draw: bool) -> str:
        rows = {name: rows_of(*pair) for name, pair in runs.items()}
        if by_prm:
            rows[first.name] += rows_of(runs[first.name][0], by_prm)
        return f"{format_rows(scale, rows)}\n{format_missing(everything)}".rstrip()

    def work() -> int:
        check_flags(args)
        return carry_out(PROGRAM, args, [run.command for run in everything], report)

    run_command(PROGRAM, work)


if __name__ == "__main__":
    main()
