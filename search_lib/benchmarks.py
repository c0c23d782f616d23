"""Problem sets: the paper's benchmarks, the toy task, and any local file or Hub data set."""

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from run_lib.text import one_line
from search_lib.grading.answers import extract_answer

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
        path: Hub id of a data set, or path of a file in one of `LOCAL_FORMATS`.
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


class RepeatedId(ValueError):
    """Two problems of a set have one id."""


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

LOCAL_FORMATS = (".jsonl", ".json", ".csv", ".parquet")

_FINAL_ANSWER = re.compile(r"(?<!#)####\s*([^\n#]*[^\s#])\s*\Z")
"""The end of a worked solution in the form of GSM8K."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON can spell it as an escape; no tokenizer or file takes it."""

_NO_ANSWER = frozenset({"None", "nan", "NaN", "null", "NULL", "<NA>"})
"""What other programs write for a value that is missing."""


def find_benchmark(
    name: str,
    split: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> BenchmarkSource:
    """Returns the source of a problem set.

    Args:
        name: Key of `BENCHMARKS`, file in one of `LOCAL_FORMATS`, or Hub id `owner/name`.
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
            f"a local file ({', '.join(LOCAL_FORMATS)}), or a Hub data set owner/name"
        )
    overrides = {"split": split, "problem_column": problem_column, "answer_column": answer_column}
    return replace(source, **{key: value for key, value in overrides.items() if value is not None})


def load_problems(source: BenchmarkSource, number_repeated: bool = False) -> list[Problem]:
    r"""Returns all problems of a source, in its order.

    Questions and answers are texts or numbers; a list of one is taken for its item. Of a worked
    solution that ends in `#### 18` or has `\boxed{18}` the answer is 18. The id of a problem is its
    `id` column, or its row number from 0 where that is missing or empty.

    Args:
        source: Where they are and how to read them.
        number_repeated: Whether problems whose id has occurred are told apart by a number (`7`,
            `7#2`, `7#3`), instead of refused.

    Raises:
        MissingColumn: Naming the column and those that are there.
        RepeatedId: Naming the id.
        ValueError: For a file or data set that can't be read, rows without a question or answer or
            with other types, or no rows. All begin with the path of the source.
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
        try:
            problems.append(_read_problem(source, index, row))
        except ValueError as error:
            raise ValueError(f"{source.path}, row {index}: {error}") from error
    ids = _number([problem.id for problem in problems])
    for problem, numbered in zip(problems, ids, strict=True):
        if problem.id != numbered and not number_repeated:
            raise RepeatedId(f"{source.path}: the id {problem.id!r} occurs twice")
    return [replace(problem, id=own) for problem, own in zip(problems, ids, strict=True)]


def _read_problem(source: BenchmarkSource, index: int, row: Mapping[str, Any]) -> Problem:
    question, answer = read_text(row, source.problem_column), read_text(row, source.answer_column)
    if not question.strip() or not answer.strip():
        raise ValueError("no question or no answer")
    if answer.strip() in _NO_ANSWER:
        raise ValueError(f"no question or no answer: {answer.strip()!r} stands for none")
    if final := _FINAL_ANSWER.search(answer):
        answer = final[1]
    answer = extract_answer(answer, after=None) or answer
    own_id = row.get("id")
    has_none = own_id is None or (isinstance(own_id, float) and math.isnan(own_id))
    return Problem(str(index) if has_none else read_text(row, "id") or str(index), question, answer)


def read_text(row: Mapping[str, Any], column: str) -> str:
    """Returns a column of a row as text; an empty one if it is missing.

    Raises:
        ValueError: Naming the column and its type, if that is none of text, number, list of one.
    """
    value = row.get(column)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        (value,) = value
    if value is None:
        return ""
    if isinstance(value, str):
        if _HALF_CHARACTER.search(value):
            raise ValueError(f"the column {column!r} has half of a surrogate pair, not text")
        return value
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        raise ValueError(f"the column {column!r} is {value}, not text")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"the column {column!r} is of type {_type_name(row[column])}, not text")


def _type_name(value: Any) -> str:
    """Returns the name of a type, with those of the items of a list."""
    if not isinstance(value, (list, tuple)):
        return type(value).__name__
    items = dict.fromkeys(type(item).__name__ for item in value)
    return f"list[{', '.join(items)}] ({len(value)} items)"


def _number(ids: Sequence[str]) -> list[str]:
    """Returns the ids with a number behind those that have occurred before."""
    taken = set(ids)
    counts: Counter[str] = Counter()
    numbered = []
    for own in ids:
        counts[own] += 1
        name = own if counts[own] == 1 else f"{own}#{counts[own]}"
        while counts[own] > 1 and name in taken:
            counts[own] += 1
            name = f"{own}#{counts[own]}"
        taken.add(name)
        numbered.append(name)
    return numbered


def problems_digest(problems: Sequence[Problem]) -> str:
    """Returns a digest of all questions and answers, which tells problem sets of one name apart."""
    text = json.dumps([astuple(problem) for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()


def _read_rows(source: BenchmarkSource) -> Iterable[Mapping[str, Any]]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(Path(source.path).suffix)
    if reader is not None:
        return reader(Path(source.path))
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


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    # Split at newlines alone: JSON strings may hold other characters that Unicode ends lines with.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _parse_json(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def _read_json(path: Path) -> list[dict[str, Any]]:
    """Reads an array of objects; JSON lines have this ending, too."""
    content = path.read_bytes()
    if not content.decode("utf-8-sig", errors="replace").lstrip().startswith("["):
        return _read_jsonl(path)
    rows = _parse_json(content, str(path))
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {index}: not a JSON object")
    return rows


def _parse_json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ValueError("more values than columns")
                rows.append(row)
        except UnicodeDecodeError as error:  # of a block of lines
            raise ValueError(f"{path}: not UTF-8: {error}") from error
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from error
    return rows
