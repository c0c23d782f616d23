"""The figures of a GPU day as Markdown: a line a step, and a table of each step's rows.

python -m scripts.gpu_day.table gpu_day.json
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from run_lib.commands import InputError, parse_command_line, run_command
from run_lib.files import read_json

PROGRAM = "scripts.gpu_day.table"


@dataclass(frozen=True)
class Args:
    """Prints the figures of a GPU day as Markdown."""

    figures: Annotated[Path, tyro.conf.Positional]
    """The JSON file that scripts/gpu_day.sh wrote."""


def as_markdown(document: dict[str, Any]) -> str:
    """Returns the tables of a GPU day, from its JSON."""
    steps = document["steps"]
    columns = ["step", "status", "seconds", "reason"]
    lines = [
        [name, *(as_text(column, step[column]) for column in columns[1:])]
        for name, step in steps.items()
    ]
    parts = [
        f"Started {document['started']}, {document['seconds']:.0f} s.",
        markdown_table(columns, lines),
    ]
    for name, step in steps.items():
        if rows := step["rows"]:
            names = list(rows[0])
            cells = [[as_text(name, row[name]) for name in names] for row in rows]
            headings = [heading.replace("_", " ") for heading in names]
            parts.append(f"`{name}`:\n\n{markdown_table(headings, cells)}")
    return "\n\n".join(parts)


def markdown_table(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Returns a table in Markdown."""
    columns = list(columns)
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def as_text(name: str, value: Any) -> str:
    """Returns a figure as a cell: four digits that count, shares in per cent.

    Args:
        name: Its name.
        value: Figure, text, or None if it is not known.
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        if name == "mfu" or name.endswith("_share"):
            return f"{value:.1%}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def main(args: Args) -> None:
    """Prints the tables.

    Raises:
        InputError: If there is no such file, or it is another one.
    """
    document = read_json(args.figures)
    if document is None:
        raise InputError(f"{args.figures}: no such file")
    try:
        print(as_markdown(document))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{args.figures} holds no figures of scripts/gpu_day.sh") from error


if __name__ == "__main__":
    arguments = parse_command_line(Args, PROGRAM, __doc__)
    run_command(PROGRAM, lambda: main(arguments))
