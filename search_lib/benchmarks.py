"""Problem sets: the paper's benchmarks, the toy task, and any local file or Hub data set."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from run_lib.text import one_line

MATH_INSTRUCTION = " Please think step-by-step and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Problem:
    """One question and its reference answer.

    Attributes:
        id: Unique within its benchmark.
        problem: The question.
        answer: The reference answer, without a box.
    """

    id: str
    problem: str
    answer: str


@dataclass(frozen=True)
class BenchmarkSource:
    """A problem set and how to read it.

    Attributes:
        path: Hub id of a data set, or path of a `.jsonl` or `.parquet` file.
        split: Split of a Hub data set.
        problem_column: Column of the questions.
        answer_column: Column of the reference answers.
        instruction: Text that the prompt adds to the question.
    """

    path: str
    split: str = "train"
    problem_column: str = "problem"
    answer_column: str = "answer"
    instruction: str = MATH_INSTRUCTION


class MissingColumn(ValueError):
    """A problem set has no column of the name that is asked for."""


TOY_PROBLEMS = Path(__file__).parent.parent / "data_prep" / "toy" / "test_problems.jsonl"

BENCHMARKS: Mapping[str, BenchmarkSource] = {
    "aime-24": BenchmarkSource(
        "Maxwell-Jia/AIME_2024", problem_column="Problem", answer_column="Answer"
    ),
    "aime-25": BenchmarkSource("yentinglin/aime_2025"),
    "hmmt-feb-24": BenchmarkSource("MathArena/hmmt_feb_2024"),
    "hmmt-feb-25": BenchmarkSource("MathArena/hmmt_feb_2025"),
    "toy": BenchmarkSource(str(TOY_PROBLEMS), instruction=""),
}

LOCAL_FORMATS = (".jsonl", ".parquet")


def find_benchmark(
    name: str,
    split: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> BenchmarkSource:
    """Returns the source of a problem set.

    Args:
        name: Key of `BENCHMARKS`, `.jsonl` or `.parquet` file, or Hub id `owner/name`.
        split: Overrides the source's split.
        problem_column: Overrides the source's column.
        answer_column: Overrides the source's column.

    Raises:
        ValueError: If it is none of these; begins with the name.
    """
    is_file = name.endswith(LOCAL_FORMATS)
    if is_file and not Path(name).is_file():
        raise ValueError(f"{name}: there is no such file")
    if name in BENCHMARKS:
        source = BENCHMARKS[name]
    elif is_file or name.count("/") == 1:
        source = BenchmarkSource(name)
    else:
        raise ValueError(
            f"{name} is not known; known are {', '.join(BENCHMARKS)}, "
            f"a local file ({' or '.join(LOCAL_FORMATS)}), or a Hub data set owner/name"
        )
    overrides = {"split": split, "problem_column": problem_column, "answer_column": answer_column}
    return replace(source, **{key: value for key, value in overrides.items() if value is not None})


def load_problems(source: BenchmarkSource) -> list[Problem]:
    """Returns all problems of a source, in its order.

    The id of a problem is its `id` column, where there is one, else its row number from 0.

    Raises:
        MissingColumn: Naming the column and those that are there.
        ValueError: For a file or data set that can't be read, rows without a question or answer,
            repeated ids, or no rows. Both begin with the path of the source.
    """
    rows = list(_read_rows(source))
    if not rows:
        raise ValueError(f"{source.path} is empty")
    present = list(rows[0])
    for column in (source.problem_column, source.answer_column):
        if column not in present:
            raise MissingColumn(f"{source.path} has no column {column!r}; it has {present}")
    problems = []
    for index, row in enumerate(rows):
        question, answer = row.get(source.problem_column), row.get(source.answer_column)
        if question is None or answer is None or not f"{question}".strip() or not f"{answer}":
            raise ValueError(f"{source.path}, row {index}: no question or no answer")
        problems.append(Problem(str(row.get("id", index)), str(question), str(answer)))
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise ValueError(f"{source.path}: the id {problem.id!r} occurs twice")
        seen.add(problem.id)
    return problems


def problems_digest(problems: Sequence[Problem]) -> str:
    """Returns a digest of all questions and answers, which tells problem sets of one name apart."""
    text = json.dumps([astuple(problem) for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_rows(source: BenchmarkSource) -> Iterable[dict[str, Any]]:
    if source.path.endswith(".jsonl"):
        return _read_jsonl(Path(source.path))
    # Imported here: loading takes a second, and most local runs do without.
    import datasets

    try:
        if source.path.endswith(".parquet"):
            return datasets.Dataset.from_parquet(source.path)
        return datasets.load_dataset(source.path, split=source.split)
    except Exception as error:  # the Hub's client has no common base for its errors
        raise ValueError(
            f"{source.path} (split {source.split}) could not be loaded: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _read_jsonl(path: Path) -> Iterable[dict[str, Any]]:
    rows = []
    # Split at newlines alone: JSON strings may hold other characters that Unicode ends lines with.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows
