"""The report of `data_prep.clean`: rows in, rows left out by which rule, rows out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.cleaning.filters import GRADER_RULES, TEXT_RULES
from data_prep.cleaning.filters.rows import text
from data_prep.columns import ID_COLUMNS
from data_prep.reports import NUM_EXAMPLES, BadRow, RowReport
from data_prep.sources import RowSource, read_texts
from data_prep.stages import REPORT_FILE
from run_lib.files import replace_file, write_json
from run_lib.text import one_line, printable, shorten

Place = tuple[str, int]
"""A row of the input: its split and its number there."""

MARKDOWN_FILE = "report.md"
PROBLEM_CHARS = 200

_RULES = {
    **{
        rule.__name__: (rule.__doc__ or "").strip().partition("\n")[0]
        for rule in (*TEXT_RULES, *GRADER_RULES)
    },
    "contaminated": "It has a third of the runs of words of a problem of a benchmark.",
    "conflicting_answers": "The problem is there more than once, with references that differ.",
    "exact_duplicate": "An earlier problem has the same text.",
    "near_duplicate": "An earlier problem has the same text but for punctuation and articles.",
}


@dataclass
class CleanReport:
    """Counts of rows, and the first rows that each rule left out.

    Attributes:
        sources: The input by split.
        rows_out: Rows written by split of the output.
        totals: Other counts: checks of answers that timed out or crashed.
    """

    sources: Mapping[str, RowSource]
    rows_out: dict[str, int] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[tuple[Place, str, Place | None]]] = field(default_factory=dict)

    @property
    def rows_in(self) -> int:
        """Rows of the input."""
        return sum(source.num_rows for source in self.sources.values())

    @property
    def left_out(self) -> dict[str, int]:
        """Rows left out by rule, in the order in which the rules are applied."""
        return {rule: self._counts[rule] for rule in _RULES if rule in self._counts}

    def add_filtered(self, split: str, report: RowReport) -> None:
        """Adds the rows of a split that the filters left out; their ids are row numbers."""
        self.totals += report.totals
        for rule, count in report.bad_rows.items():
            self._count(rule, count)
            for number, detail in report.examples[rule]:
                self._add_example((split, int(number)), rule, detail, None)

    def add(self, place: Place, rule: str, passage: str, repeats: Place | None) -> None:
        """Adds one row that is left out, perhaps because it repeats another one."""
        self._count(rule, 1)
        self._add_example(place, rule, passage, repeats)

    def _count(self, rule: str, count: int) -> None:
        self._counts[rule] = self._counts.get(rule, 0) + count

    def _add_example(self, place: Place, rule: str, passage: str, repeats: Place | None) -> None:
        examples = self._examples.setdefault(rule, [])
        if len(examples) < NUM_EXAMPLES:
            examples.append((place, passage, repeats))

    def write(self, folder: Path) -> None:
        """Writes both files; the JSON file can be read as that of any stage."""
        examples = {
            rule: [self._read_example(*example) for example in self._examples[rule]]
            for rule in self.left_out
        }
        replace_file(folder / MARKDOWN_FILE, self._markdown(examples).encode())
        total = RowReport(self.rows_in, sum(self.rows_out.values()), self.totals)
        for rule, count in self.left_out.items():
            for example in examples[rule]:
                total.add(BadRow(example["id"], rule, example["passage"]))
            total.bad_rows[rule] = count
        content = total.as_json()
        for rule, group in content["bad_rows"].items():
            for shown, example in zip(group["examples"], examples[rule], strict=True):
                shown |= {"problem": example["problem"], "answer": example["answer"]}
        splits = {
            split: RowReport(count, count).as_json() for split, count in self.rows_out.items()
        }
        write_json(folder / REPORT_FILE, {"all": content, "splits": splits})

    def format(self) -> str:
        """Returns a table for the terminal, with the first row that each rule left out."""
        width = len(f"{self.rows_in:,}")
        lines = [f"{self.rows_in:{width},}  rows in"]
        for rule, count in self.left_out.items():
            example = self._read_example(*self._examples[rule][0])
            because = example["passage"] or example["problem"]
            lines.append(f"{count:{width},}  left out: {rule}")
            lines.append(" " * (width + 4) + printable(shorten(f"{example['id']}: {because}", 90)))
        lines += [f"{count:{width},}  rows out: {split}" for split, count in self.rows_out.items()]
        lines += [f"{count:{width},}  {name}" for name, count in self.totals.items() if count]
        return "\n".join(lines)

    def _read_example(self, place: Place, passage: str, repeats: Place | None) -> dict[str, str]:
        example = self._read_row(place)
        if repeats is not None and not passage:
            earlier = self._read_row(repeats)
            passage = f"{earlier['id']}: {earlier['problem']}"
        return example | {"passage": passage}

    def _read_row(self, place: Place) -> dict[str, str]:
        split, row = place
        source = self.sources[split]
        id_column = next((name for name in ID_COLUMNS if name in source.column_names), None)
        columns = ["problem", "answer", *filter(None, [id_column])]
        (content,) = read_texts(source.read(row, row + 1, columns))
        return {
            "id": (text(content, id_column) if id_column else "") or f"{split} row {row}",
            "problem": text(content, "problem")[:PROBLEM_CHARS],
            "answer": text(content, "answer")[:PROBLEM_CHARS],
        }

    def _markdown(self, examples: Mapping[str, list[dict[str, str]]]) -> str:
        lines = ["# Report of data_prep.clean", "", "| | rows | share |", "|---|---:|---:|"]

        def add_line(name: str, count: int) -> None:
            lines.append(f"| {name} | {count:,} | {count / self.rows_in:.1%} |")

        add_line("rows in", self.rows_in)
        for rule, count in self.left_out.items():
            add_line(f"left out: [{rule}](#{rule})", count)
        for split, count in self.rows_out.items():
            add_line(f"rows out: {split}", count)
        for name, count in self.totals.items():
            if count:
                lines.append(f"| {name} | {count:,} | |")
        lines += ["", "A row counts for the first rule that objects to it, in this order."]
        for rule, count in self.left_out.items():
            lines += [
                "",
                f"## {rule}",
                "",
                f"{_RULES[rule]} Rows left out: {count:,}. The first of them:",
                "",
            ]
            for example in examples[rule]:
                lines.append(f"- {code(example['id'])}: {code(example['problem'])}")
                lines.append(f"  - answer {code(example['answer'])}")
                if example["passage"]:
                    lines.append(f"  - because of {code(example['passage'])}")
        return "\n".join(lines) + "\n"


def code(content: Any) -> str:
    """Returns Markdown that shows a text of unknown origin as it is, on one line."""
    shown = one_line(content)
    fence = "`"
    while fence in shown:  # a fence must be longer than any run of backticks inside
        fence += "`"
    margin = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{margin}{shown}{margin}{fence}" if shown else "nothing"
