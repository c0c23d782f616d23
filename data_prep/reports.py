"""Reports of a stage: how many rows it read and wrote, and which ones it left out and why."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from run_lib.text import printable, shorten

NUM_EXAMPLES = 5
_MAX_DETAIL = 200  # characters


@dataclass(frozen=True)
class BadRow:
    """A row that a stage leaves out.

    Attributes:
        id: Id of the row.
        reason: Short name, the same for all rows of the kind.
        detail: The fault of this row.
    """

    id: str
    reason: str
    detail: str = ""


@dataclass
class RowReport:
    """Counts over some rows of a stage.

    Attributes:
        rows_in: Rows read.
        rows_out: Rows written.
        totals: Other counts, such as `tokens`.
        bad_rows: Rows left out, by reason.
        examples: The first `NUM_EXAMPLES` of them by reason, as (id, detail).
    """

    rows_in: int = 0
    rows_out: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    bad_rows: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, bad: BadRow) -> None:
        """Counts a row that is left out."""
        self.bad_rows[bad.reason] += 1
        self._add_examples(bad.reason, [(bad.id, shorten(bad.detail, _MAX_DETAIL, "..."))])

    def merge(self, other: "RowReport") -> None:
        """Adds the counts of the rows that come next."""
        self.rows_in += other.rows_in
        self.rows_out += other.rows_out
        self.totals += other.totals
        self.bad_rows += other.bad_rows
        for reason, examples in other.examples.items():
            self._add_examples(reason, examples)

    def _add_examples(self, reason: str, examples: list[tuple[str, str]]) -> None:
        shown = self.examples.setdefault(reason, [])
        shown += examples[: NUM_EXAMPLES - len(shown)]

    @classmethod
    def sum(cls, reports: Iterable["RowReport"]) -> "RowReport":
        """Returns one report of the rows of all reports, in this order."""
        total = cls()
        for report in reports:
            total.merge(report)
        return total

    def as_json(self) -> dict[str, Any]:
        """Returns the report as an object for `from_json`."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "totals": dict(self.totals),
            "bad_rows": {
                reason: {
                    "count": count,
                    "examples": [
                        {"id": row_id, "detail": detail}
                        for row_id, detail in self.examples.get(reason, [])
                    ],
                }
                for reason, count in sorted(self.bad_rows.items())
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RowReport":
        """Returns the report that `as_json` described."""
        bad_rows = content["bad_rows"]
        return cls(
            content["rows_in"],
            content["rows_out"],
            Counter(content["totals"]),
            Counter({reason: group["count"] for reason, group in bad_rows.items()}),
            {
                reason: [(example["id"], example["detail"]) for example in group["examples"]]
                for reason, group in bad_rows.items()
            },
        )

    def format(self) -> str:
        """Returns lines for the terminal: counts, and the first rows left out for each reason."""
        lines = [f"rows in    {self.rows_in:,}", f"rows out   {self.rows_out:,}"]
        lines += [f"           {count:,} {name}" for name, count in self.totals.items() if count]
        for reason, count in self.bad_rows.most_common():
            lines.append(f"left out   {count:,} {reason}")
            for row_id, detail in self.examples.get(reason, []):
                lines.append(printable(f"             {row_id}{': ' if detail else ''}{detail}"))
        return "\n".join(lines)
