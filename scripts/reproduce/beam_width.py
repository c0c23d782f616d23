"""Ablation of the VGS paper: the width of a beam.

    python -m scripts.reproduce.beam_width --toy

Of 8 blocks a tree: four beams of width 2, two of width 4, one of width 8 (`bfs`), and independent
samples in the same weighted vote. The widths beside 2 are this script's.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from scripts.reproduce.ablation import Variant, run_ablation
from scripts.reproduce.searches import Scale

PROGRAM = "scripts.reproduce.beam_width"

WIDTHS = (2, 4, 8)


def variants(scale: Scale) -> list[Variant]:
    """Returns the widths, and no search at all."""
    beams = [
        Variant(
            f"width {width}",
            scale.vgs._replace(search_type=f"beam{width}"),
            published="best" if width == 2 else "-",
        )
        for width in WIDTHS
    ]
    return [*beams, Variant("independent samples", scale.vgs._replace(search_type="bon"))]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run_ablation(PROGRAM, __doc__, "Beam width", variants, argv)


if __name__ == "__main__":
    main()
