"""Rows in the form of OpenR1-Math, with the outcome that is expected of each, and a benchmark."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.paths import SAMPLE

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("problem", "solution", "answer"), pa.string()),
        **dict.fromkeys(("problem_type", "question_type", "source", "uuid"), pa.string()),
        "is_reasoning_complete": pa.list_(pa.bool_()),
        "generations": pa.list_(pa.string()),
        "correctness_math_verify": pa.list_(pa.bool_()),
        "correctness_llama": pa.list_(pa.bool_()),
        "finish_reasons": pa.list_(pa.string()),
        "correctness_count": pa.int64(),
        "messages": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
    }
)

# The first shares runs of 13 words with a problem of the sample, and the second one is shorter than
# that. The third is in the sample with another beginning; its closing sentence is there twice.
BENCHMARK = (
    ("g1", "A gardener plants 7 rows of tulips, and every row after the first has 3 tulips more."),
    ("g2", "Compute the sixteenth prime."),
    (
        "g3",
        "Five pairs of gloves lie in a dark box. Ivo draws four gloves at random, without looking. "
        "Given that there is a pair among them, the probability that there are two is $\\frac mn$, "
        "where $m$ and $n$ are relatively prime positive integers. Find $m+n$.",
    ),
)


def read_sample() -> tuple[list[dict], list[str]]:
    """The rows of the sample, and what is expected of each: a rule, or `keep`."""
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    return rows, [row.pop("expected") for row in rows]


def kept_rows() -> list[dict]:
    rows, expected = read_sample()
    return [row for row, outcome in zip(rows, expected, strict=True) if outcome == "keep"]


def write_rows(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=10)
    return path


def write_benchmark(path: Path) -> Path:
    lines = [json.dumps({"id": i, "problem": text, "answer": "1"}) for i, text in BENCHMARK]
    path.write_text("\n".join(lines))
    return path
