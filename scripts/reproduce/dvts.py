"""Ablation of the VGS paper: one large tree, or many small ones (DVTS).

    python -m scripts.reproduce.dvts --toy

Of one budget N: trees of 8 blocks, of 32, and a single tree of N. The sizes are this script's.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence

from scripts.reproduce.ablation import Variant, run_ablation
from scripts.reproduce.searches import Scale

PROGRAM = "scripts.reproduce.dvts"


def variants(scale: Scale) -> list[Variant]:
    """Returns the sizes of a tree, the published one first."""
    small, budget = scale.vgs.num_blocks, scale.policies[0].budget
    return [
        Variant(
            f"{budget // size} tree{'s' if size < budget else ''} of {size}",
            scale.vgs._replace(num_blocks=size),
            published="best" if size == small else "-",
        )
        for size in (small, 4 * small, budget)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run_ablation(PROGRAM, __doc__, "Trees, and blocks of a tree", variants, argv)


if __name__ == "__main__":
    main()
