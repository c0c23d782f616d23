"""Files of plots, for the commands that draw them."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from run_lib.commands import InputError

FORMATS = (".png", ".pdf", ".svg")


def check_plot_path(output: Path) -> None:
    """Raises InputError unless a plot can be of that name, `--output`."""
    if output.suffix not in FORMATS:
        raise InputError(f"--output {output} ends in none of {', '.join(FORMATS)}")


def save_plot(figure: Figure, output: Path) -> None:
    """Writes a figure on white and closes it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150, facecolor="white")
    plt.close(figure)
