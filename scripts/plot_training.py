"""Plots metrics of trainings, each against the passes over its data.

    python -m scripts.plot_training --output implicit_reward.png \
        --curves "DVO=outputs/dvo/round_1:train/implicit_reward/correct" \
        "DPO=outputs/dvo/dpo:train/rewards/chosen"

A curve is `label=folder:metric`: the folder of a run, and a name in its metrics.jsonl.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loggers import read_metrics
from run_lib.commands import naming, parse_command_line, run_command
from scripts.plots import check_plot_path, save_plot

PROGRAM = "scripts.plot_training"


@dataclass(frozen=True)
class Args:
    """Plot metrics of trainings."""

    curves: tuple[str, ...]
    """label=folder:metric each."""
    output: Path
    """The plot, a .png, .pdf or .svg file."""
    title: str = ""
    """Above the plot."""


def load_curve(specification: str) -> tuple[str, list[float], list[float]]:
    """Returns the label, the passes over the data, and the metric there.

    Raises:
        ValueError: If it is not `label=folder:metric`, or there is no such metric; begins with it
            or its label.
    """
    label, _, source = specification.partition("=")
    folder, _, metric = source.partition(":")
    if not (label and folder and metric):
        raise ValueError(f"{specification!r} is not of the form label=folder:metric")
    try:
        steps = read_metrics(Path(folder))
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    values = {
        step: value for step, line in steps.items() if (value := line.get(metric)) is not None
    }
    # Evaluations have no epoch of their own: it grows with the steps.
    epochs = [
        epoch / step
        for step, line in steps.items()
        if (epoch := line.get("train/epoch")) is not None
    ]
    if not values or not epochs:
        raise ValueError(f"{label}: {folder} has no metric {metric!r}")
    return label, [step * epochs[-1] for step in values], list(values.values())


def plot(args: Args) -> None:
    """Writes the plot.

    Raises:
        InputError: If a curve can't be loaded.
    """
    check_plot_path(args.output)
    import matplotlib.pyplot as plt

    with naming("--curves"):
        curves = [load_curve(specification) for specification in args.curves]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for label, epochs, values in curves:
        axes.plot(epochs, values, label=label, linewidth=1.6)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=1)
    axes.set_xlabel("passes over the data")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(args.title)
    axes.legend(frameon=False)
    save_plot(figure, args.output)
    print(f"plot: {args.output}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: plot(args))


if __name__ == "__main__":
    main()
