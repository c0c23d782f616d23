"""Benchmarks: the published procedure and ours side by side, in one run.

Each prints one table and, last of all, one line `ratio: <float>`; larger is better.
"""

from collections.abc import Sequence

from run_lib.text import format_table


def print_report(
    columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], ratio: float
) -> None:
    """Prints a table, the notes below it, and the ratio.

    Args:
        columns: Headings.
        rows: Cells; the first of a row is its label.
        notes: Lines between the table and the ratio.
        ratio: Of the published procedure's cost to ours.
    """
    print("\n".join([format_table(columns, rows), *notes, f"ratio: {ratio:.2f}"]))
