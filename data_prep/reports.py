"""What became of the rows of a stage: how many, and which were left out for what reason."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NUM_EXAMPLES = 5
_MAX_DETAIL = 200  # characters


@dataclass(frozen=True)
class BadRow:
    """A row that a stage leaves out.

    Args:
        id: of the row.
        reason: short name, the same for all rows of the kind.
        detail: what is wrong with this one.
    """

    id: str
    reason: str
    detail: str = ""


@dataclass
class RowReport:
    """Counts over some rows of a stage.

    Args:
        rows_in: read.
        rows_out: written.
        totals: other counts, such as ``tokens``.
        bad_rows: reason -> rows left out for it.
        examples: reason -> the first ``NUM_EXAMPLES`` of them, as (id, detail).
    """

    rows_in: int = 0
    rows_out: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    bad_rows: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, bad: BadRow) -> None:
        """Counts a row that is left out."""
        self.bad_rows[bad.reason] += 1
        detail = " ".join(bad.detail.split())
        if len(detail) > _MAX_DETAIL:
            detail = detail[:_MAX_DETAIL] + "..."
        self._add_examples(bad.reason, [(bad.id, detail)])

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
        """One report of all their rows, in this order."""
        total = cls()
        for report in reports:
            total.merge(report)
        return total

    def as_json(self) -> dict[str, Any]:
        """What ``from_json`` reads."""
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
        """The report that ``as_json`` wrote."""
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
        """Lines for the terminal: the counts, and for each reason the first rows left out."""
        lines = [f"rows in    {self.rows_in:,}", f"rows out   {self.rows_out:,}"]
        lines += [f"           {count:,} {name}" for name, count in self.totals.items() if count]
        for reason, count in self.bad_rows.most_common():
            lines.append(f"left out   {count:,} {reason}")
            for row_id, detail in self.examples.get(reason, []):
                lines.append(f"             {row_id}{': ' if detail else ''}{detail}")
        return "\n".join(lines)
