"""Verdicts on labelled pairs of answers: ours, those of math-verify as documented, and labels.

    python -m scripts.agreement pairs.jsonl
    python -m scripts.agreement pairs.jsonl --label verdict --disagreements

Each line has a `gold`, an `answer` and a label: true, false, or null for pairs without one. The
table counts the pairs of each combination. math-verify runs in this process, with its own time
limits.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.text import format_table
from search_lib.grading import Grader

PROGRAM = "scripts.agreement"
_NAMES = {True: "equal", False: "different", None: "-"}


@dataclass(frozen=True)
class Args:
    """Compare the graders' verdicts with the labels of a file."""

    pairs: tyro.conf.Positional[Path]
    """JSON lines with `gold` and `answer`."""
    label: str = "label"
    """Field that holds the label."""
    disagreements: bool = False
    """Also list the pairs on which ours differs from the label."""


class LabelledPair(NamedTuple):
    """Two answers, and whether they are the same; None if nobody knows."""

    gold: str
    answer: str
    label: bool | None


def read_pairs(path: Path, label: str) -> list[LabelledPair]:
    """Returns the pairs of a file.

    Raises:
        ValueError: If a line is not of that form; begins with the file and the line.
    """
    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            pair = LabelledPair(row["gold"], row["answer"], row[label])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: no pair with {label!r}: {error!r}") from error
        if not (isinstance(pair.gold, str) and isinstance(pair.answer, str)):
            raise ValueError(f"{path}:{number}: gold and answer must be strings")
        if pair.label not in (True, False, None):
            raise ValueError(f"{path}:{number}: {label} is {pair.label!r}, not true, false or null")
        pairs.append(pair)
    return pairs


def documented_verdicts(pairs: Sequence[LabelledPair]) -> list[bool]:
    """Returns what math-verify says of each pair, used as its documentation does."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)  # it logs each answer that it cannot parse or compare in time
    return [
        bool(verify(parse(rf"\boxed{{{pair.gold}}}"), parse(rf"\boxed{{{pair.answer}}}")))
        for pair in pairs
    ]


def main(args: Args) -> None:
    """Prints the table and, if asked for, the disagreements."""
    with naming("PAIRS", OSError):
        pairs = read_pairs(args.pairs, args.label)
    if not pairs:
        raise InputError(f"PAIRS {args.pairs} is empty")
    with Grader(num_workers=2) as grader:
        ours = grader.equivalent([(pair.gold, pair.answer) for pair in pairs])
    labels = [pair.label for pair in pairs]
    counts = Counter(zip(labels, ours, documented_verdicts(pairs), strict=True))
    rows = sorted(counts.items(), key=lambda item: [_NAMES[verdict] for verdict in item[0]])
    print(
        format_table(
            ["label", "ours", "math-verify", "pairs"],
            [[*(_NAMES[verdict] for verdict in verdicts), f"{n:,}"] for verdicts, n in rows],
        )
    )
    if args.disagreements:
        for pair, verdict in zip(pairs, ours, strict=True):
            if pair.label is not None and pair.label != verdict:
                print(f"label {_NAMES[pair.label]}: {pair.gold!r} | {pair.answer!r}")


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
