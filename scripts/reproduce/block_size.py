"""Ablation of the VGS paper: the size of a block.

    python -m scripts.reproduce.block_size --toy

Of a quarter to twice the published 4096 tokens, at width 2; the sizes beside it are this script's.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from scripts.reproduce.ablation import Variant, run_ablation
from scripts.reproduce.searches import Scale

PROGRAM = "scripts.reproduce.block_size"

FACTORS = (1, 1 / 4, 1 / 2, 2)
"""Of the published size, which comes first."""


def variants(scale: Scale) -> list[Variant]:
    """Returns the block sizes."""
    sizes = [int(scale.vgs.block_size * factor) for factor in FACTORS]
    return [
        Variant(
            f"{size} tokens",
            scale.vgs._replace(block_size=size),
            published="best" if size == scale.vgs.block_size else "-",
        )
        for size in sizes
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run_ablation(PROGRAM, __doc__, "Block size", variants, argv)


if __name__ == "__main__":
    main()
