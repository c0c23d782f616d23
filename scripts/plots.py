"""Files of plots, for the commands that draw them."""

from pathlib import Path
from typing import TYPE_CHECKING

from run_lib.commands import InputError, check_installed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")


def check_plot_path(output: Path) -> None:
    """Raises InputError unless a plot can be of that name, `--output`, and drawn here."""
    check_installed("matplotlib", "a plot", "pip install 'value-guided-search[plot]'")
    if output.suffix not in FORMATS:
        raise InputError(f"--output {output} ends in none of {', '.join(FORMATS)}")


def save_plot(figure: "Figure", output: Path) -> None:
    """Writes a figure on white and closes it."""
    import matplotlib.pyplot as plt

    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150, facecolor="white")
    plt.close(figure)
