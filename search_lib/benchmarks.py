"""Problem sets: the paper's benchmarks, the toy task, and any local file or hub data set."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from run_lib.commands import InputError
from search_lib.prompts import MATH_INSTRUCTION


@dataclass(frozen=True)
class Problem:
    """One question and its reference answer.

    Args:
        id: unique within its benchmark.
        problem: the question.
        answer: the reference answer, without a box.
    """

    id: str
    problem: str
    answer: str


@dataclass(frozen=True)
class BenchmarkSource:
    """Where a problem set comes from and how to read it.

    Args:
        path: hub id of a data set, or path of a ``.jsonl`` or ``.parquet`` file.
        split: of a hub data set.
        problem_column: holds the question.
        answer_column: holds the reference answer.
        instruction: what the prompt says after the question.
    """

    path: str
    split: str = "train"
    problem_column: str = "problem"
    answer_column: str = "answer"
    instruction: str = MATH_INSTRUCTION


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
    """The source that ``--benchmark`` names.

    Args:
        name: key of ``BENCHMARKS``, ``.jsonl`` or ``.parquet`` file, or hub id ``owner/name``.
        split: overrides the source's split.
        problem_column: overrides the source's column.
        answer_column: overrides the source's column.

    Raises:
        InputError: if it is none of these.
    """
    is_file = name.endswith(LOCAL_FORMATS)
    if is_file and not Path(name).is_file():
        raise InputError(f"--benchmark {name}: there is no such file")
    if name in BENCHMARKS:
        source = BENCHMARKS[name]
    elif is_file or name.count("/") == 1:
        source = BenchmarkSource(name)
    else:
        raise InputError(
            f"unknown --benchmark {name!r}; known: {', '.join(BENCHMARKS)}, "
            f"a local file ({' or '.join(LOCAL_FORMATS)}), or a hub data set owner/name"
        )
    overrides = {"split": split, "problem_column": problem_column, "answer_column": answer_column}
    return replace(source, **{key: value for key, value in overrides.items() if value is not None})


def load_problems(source: BenchmarkSource) -> list[Problem]:
    """All problems of a source, in its order.

    A problem's id is its ``id`` column, where there is one, else its row number from 0.

    Raises:
        InputError: for a file or data set that cannot be read, a missing column (named, with the
            present ones), rows without a question or answer (named), repeated ids, or no rows.
    """
    rows = list(_read_rows(source))
    if not rows:
        raise InputError(f"benchmark {source.path} is empty")
    present = list(rows[0])
    for column in (source.problem_column, source.answer_column):
        if column not in present:
            raise InputError(
                f"benchmark {source.path} has no column {column!r}; it has {present}: "
                "name the right ones with --problem_column and --answer_column"
            )
    problems = []
    for index, row in enumerate(rows):
        question, answer = row.get(source.problem_column), row.get(source.answer_column)
        if question is None or answer is None or not f"{question}".strip() or not f"{answer}":
            raise InputError(f"benchmark {source.path}, row {index}: no question or no answer")
        problems.append(Problem(str(row.get("id", index)), str(question), str(answer)))
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise InputError(f"benchmark {source.path}: the id {problem.id!r} occurs twice")
        seen.add(problem.id)
    return problems


def problems_digest(problems: Sequence[Problem]) -> str:
    """Tells apart problem sets with the same name: a digest of all questions and answers."""
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
    except Exception as error:  # the hub's client has no common base for what can go wrong
        raise InputError(
            f"benchmark {source.path} (split {source.split}) could not be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _read_jsonl(path: Path) -> Iterable[dict[str, Any]]:
    rows = []
    # Split at newlines alone: JSON strings may hold what else Unicode takes for a line's end.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows
