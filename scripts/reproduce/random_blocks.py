"""Ablation of the VGS paper: blocks chosen at random, in place of the best by value.

    python -m scripts.reproduce.random_blocks --toy

The same search and the same weighted vote; only the blocks that survive are drawn. The majority
vote of these searches uses no value at all.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from scripts.reproduce.ablation import Variant, run_ablation
from scripts.reproduce.searches import Scale

PROGRAM = "scripts.reproduce.random_blocks"


def variants(scale: Scale) -> list[Variant]:
    """Returns guided and random selection."""
    at_random = scale.vgs._replace(search_type="random2")
    return [
        Variant("by value (VGS), WMV", scale.vgs),
        Variant("at random, WMV", at_random),
        Variant("at random, MV", at_random, method="MV"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run_ablation(PROGRAM, __doc__, "Selection of blocks", variants, argv)


if __name__ == "__main__":
    main()
