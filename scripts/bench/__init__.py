"""Benchmarks: the published procedure and ours side by side, in one run.

Each prints one table and, last of all, one line `ratio: <float>`; larger is better.
"""

from collections.abc import Sequence


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
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        label, *rest = cells
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "  ".join([label.ljust(widths[0]), *aligned])

    print(line(columns))
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row))
    for note in notes:
        print(note)
    print(f"ratio: {ratio:.2f}")
