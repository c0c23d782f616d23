"""What the ablations share: variants of a search, their mean accuracy by budget, and its plot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from run_lib.commands import parse_command_line, run_command
from run_lib.text import format_table
from scripts.compare import compare, format_point, plot
from scripts.reproduce.plan import carry_out
from scripts.reproduce.searches import (
    Scale,
    SearchPlanArgs,
    SearchRun,
    Setting,
    check_flags,
    format_missing,
    mean_curve,
    runs_of,
    scale_of,
)


@dataclass(frozen=True)
class Variant:
    """A line of an ablation.

    Attributes:
        label: Its name.
        setting: The search.
        method: The aggregation.
        published: What is published of it; no ablation has figures.
    """

    label: str
    setting: Setting
    method: str = "WMV"
    published: str = "-"


def run_ablation(
    program: str,
    doc: str | None,
    title: str,
    variants_of: Callable[[Scale], Sequence[Variant]],
    argv: Sequence[str] | None,
) -> None:
    """Runs the command line of an ablation.

    Args:
        program: Name of the script, whose last part is that of its plot.
        doc: Its docstring.
        title: Above the plot.
        variants_of: Returns the lines; the first one is what the others are compared with.
        argv: The command line.
    """
    args = parse_command_line(SearchPlanArgs, program, doc, argv)
    scale = scale_of(args)
    policy = scale.policies[0]
    variants = variants_of(scale)
    if args.toy:
        variants = [replace(variant, published="-") for variant in variants]
    runs = {
        setting: runs_of(args, policy, setting)
        for setting in dict.fromkeys(variant.setting for variant in variants)
    }
    everything = [run for of_setting in runs.values() for run in of_setting]

    def report(draw: bool) -> str:
        text = f"{format_variants(variants, runs)}\n{format_missing(everything)}".rstrip()
        # Last the first variant: that is the curve which the plot draws bold.
        curves = {v.label: mean_curve(runs[v.setting], v.method) for v in reversed(variants)}
        curves = {label: curve for label, curve in curves.items() if curve}
        if draw and curves:
            output = args.out / f"{program.rpartition('.')[2]}{'-toy' if args.toy else ''}.png"
            plot(curves, f"{title} ({policy.name}, mean of {len(scale.benchmarks)} sets)", output)
            text += f"\nplot: {output}"
        return text

    def work() -> int:
        check_flags(args)
        return carry_out(program, args, [run.command for run in everything], report)

    run_command(program, work)


def format_variants(variants: Sequence[Variant], runs: dict[Setting, list[SearchRun]]) -> str:
    """Returns the accuracy of each variant at every budget, and its difference to the first."""
    budget = next(iter(runs.values()))[0].policy.budget
    curves = [mean_curve(runs[variant.setting], variant.method) for variant in variants]
    budgets = sorted({of for curve in curves for of in curve} | {budget})
    lines = [
        [
            variant.label,
            *(format_point(curve.get(of)) or "-" for of in budgets),
            variant.published,
        ]
        for variant, curve in zip(variants, curves, strict=True)
    ]
    table = format_table(["budget", *map(str, budgets), "published"], lines) + (
        "\nmean accuracy in % ± 95 % interval over problems\n"
        "published: what the paper says; the material that this project is built from has no figure"
    )
    differences = [
        [f"{variant.label} - {variants[0].label}", *compare(curve[budget], curves[0][budget])]
        for variant, curve in zip(variants[1:], curves[1:], strict=True)
        if budget in curve and budget in curves[0]
    ]
    if differences:
        header = [f"N = {budget}", "points", "95 % interval", "p", "n", "better", "worse"]
        table += (
            f"\n\n{format_table(header, differences)}\npaired by problem, as in scripts.compare"
        )
    return table
