"""Problem sets: the papers' benchmarks, the toy task, and any local file or Hub data set."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from search_lib.answer_formats import AnswerFormatName
from search_lib.benchmark_rows import LOCAL_FORMATS, read_rows, read_text
from search_lib.questions import (
    RowReader,
    agieval_question,
    labelled_options,
    open_question,
    sciq_question,
)

MATHEMATICS: tuple[AnswerFormatName, ...] = ("boxed", "final_answer")
CHOICE: tuple[AnswerFormatName, ...] = ("choice",)

MATH_INSTRUCTION = " Please think step-by-step and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Problem:
    """One question and its reference answer.

    Attributes:
        id: Unique within its benchmark.
        problem: The question.
        answer: The reference answer, without a box; None for a question to which nobody knows it.
    """

    id: str
    problem: str
    answer: str | None

    @property
    def reference(self) -> str:
        """The reference answer of a problem that has one, as all of benchmarks do.

        Raises:
            ValueError: If it has none; begins with its id.
        """
        if self.answer is None:
            raise ValueError(f"{self.id}: the problem has no reference answer")
        return self.answer


@dataclass(frozen=True)
class BenchmarkSource:
    """A problem set and how to read it.

    Attributes:
        path: Hub id of a data set, or path of a file in one of `LOCAL_FORMATS`.
        split: Split of a Hub data set.
        problem_column: Column of the questions.
        answer_column: Column of the reference answers.
        config: Configuration of a Hub data set that has several.
        read: Gets the question and the answer out of a row.
        answer_formats: How answers can be written so that they can be compared with the references;
            the first is the usual one.
        instruction: Text that the prompt adds to the question, if the answer format has none.
    """

    path: str
    split: str = "train"
    problem_column: str = "problem"
    answer_column: str = "answer"
    config: str | None = None
    read: RowReader = open_question
    answer_formats: tuple[AnswerFormatName, ...] = (*MATHEMATICS, *CHOICE)
    instruction: str = MATH_INSTRUCTION


class MissingColumn(ValueError):
    """A problem set has no column of the name that is asked for."""


class RepeatedId(ValueError):
    """Two problems of a set have one id."""


TOY_PROBLEMS = Path(__file__).parent.parent / "data_prep" / "toy" / "test_problems.jsonl"

BENCHMARKS: Mapping[str, BenchmarkSource] = {
    "aime-24": BenchmarkSource(
        "Maxwell-Jia/AIME_2024", "train", "Problem", "Answer", answer_formats=MATHEMATICS
    ),
    "aime-25": BenchmarkSource("yentinglin/aime_2025", answer_formats=MATHEMATICS),
    "hmmt-feb-24": BenchmarkSource("MathArena/hmmt_feb_2024", answer_formats=MATHEMATICS),
    "hmmt-feb-25": BenchmarkSource("MathArena/hmmt_feb_2025", answer_formats=MATHEMATICS),
    "aime-26": BenchmarkSource("MathArena/aime_2026", answer_formats=MATHEMATICS),
    "hmmt-nov-25": BenchmarkSource("MathArena/hmmt_nov_2025", answer_formats=MATHEMATICS),
    "hmmt-feb-26": BenchmarkSource("MathArena/hmmt_feb_2026", answer_formats=MATHEMATICS),
    "brumo-25": BenchmarkSource("MathArena/brumo_2025", answer_formats=MATHEMATICS),
    "math-500": BenchmarkSource("HuggingFaceH4/MATH-500", "test", answer_formats=MATHEMATICS),
    "amc-23": BenchmarkSource("math-ai/amc23", "test", "question", answer_formats=MATHEMATICS),
    # English, open-ended, text only; its one split is called train.
    "olympiadbench": BenchmarkSource(
        "Hothan/OlympiadBench",
        "train",
        "question",
        "final_answer",
        "OE_TO_maths_en_COMP",
        answer_formats=MATHEMATICS,
    ),
    "minerva": BenchmarkSource(
        "math-ai/minervamath", "test", "question", answer_formats=MATHEMATICS
    ),
    "gsm8k": BenchmarkSource(
        "openai/gsm8k", "test", "question", "answer", "main", answer_formats=MATHEMATICS
    ),
    "math": BenchmarkSource(
        "DigitalLearningGmbH/MATH-lighteval",
        "test",
        answer_column="solution",
        answer_formats=MATHEMATICS,
    ),
    "agieval-math": BenchmarkSource(
        "hails/agieval-math",
        "test",
        problem_column="query",
        read=agieval_question,
        answer_formats=MATHEMATICS,
    ),
    "obqa": BenchmarkSource(
        "allenai/openbookqa",
        "test",
        "question_stem",
        "answerKey",
        "main",
        labelled_options,
        CHOICE,
    ),
    # The answers of its test split are kept back.
    "csqa": BenchmarkSource(
        "tau/commonsense_qa",
        "validation",
        "question",
        "answerKey",
        read=labelled_options,
        answer_formats=CHOICE,
    ),
    "arc-challenge": BenchmarkSource(
        "allenai/ai2_arc",
        "test",
        "question",
        "answerKey",
        "ARC-Challenge",
        labelled_options,
        CHOICE,
    ),
    "sciq": BenchmarkSource(
        "allenai/sciq",
        "test",
        "question",
        "correct_answer",
        read=sciq_question,
        answer_formats=CHOICE,
    ),
    "toy": BenchmarkSource(str(TOY_PROBLEMS), answer_formats=MATHEMATICS, instruction=""),
}


def find_benchmark(
    name: str,
    split: str | None = None,
    problem_column: str | None = None,
    answer_column: str | None = None,
) -> BenchmarkSource:
    """Returns the source of a problem set.

    Args:
        name: Key of `BENCHMARKS`, file in one of `LOCAL_FORMATS`, or Hub id `owner/name`; with
            `key=` before it a copy of the benchmark of that key, with its columns.
        split: Overrides the source's split.
        problem_column: Overrides the source's column.
        answer_column: Overrides the source's column.

    Raises:
        ValueError: If it is none of these; begins with the name.
    """
    original, _, copy = name.partition("=")
    is_copy = bool(copy) and original in BENCHMARKS
    path = copy if is_copy else name
    is_file = path.endswith(LOCAL_FORMATS)
    if is_file and not Path(path).is_file():
        raise ValueError(f"{name}: there is no such file")
    if name in BENCHMARKS:
        source = BENCHMARKS[name]
    elif is_file or path.count("/") == 1:
        source = replace(BENCHMARKS[original], path=path) if is_copy else BenchmarkSource(path)
    else:
        raise ValueError(
            f"{name} is not known; known are {', '.join(BENCHMARKS)}, "
            f"a local file ({', '.join(LOCAL_FORMATS)}), a Hub data set owner/name, and copies of "
            "what is known, such as gsm8k=FILE"
        )
    return replace(
        source,
        split=split or source.split,
        problem_column=problem_column or source.problem_column,
        answer_column=answer_column or source.answer_column,
    )


def load_problems(source: BenchmarkSource, number_repeated: bool = False) -> list[Problem]:
    """Returns all problems of a source, in its order.

    Questions and answers are texts or numbers; a list of one is taken for its item. The id of a
    problem is its `id` column, or its row number from 0 where that is missing or empty.

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
    rows = list(read_rows(source.path, source.split, source.config))
    if not rows:
        raise ValueError(f"{source.path} is empty")
    present = list(rows[0])
    for column in (source.problem_column, source.answer_column):
        if column not in present:
            raise MissingColumn(f"{source.path} has no column {column!r}; it has {present}")
    problems = []
    for index, row in enumerate(rows):
        try:
            question, answer = source.read(row, source.problem_column, source.answer_column)
            problems.append(Problem(_own_id(row) or str(index), question, answer))
        except ValueError as error:
            raise ValueError(f"{source.path}, row {index}: {error}") from error
    ids = _number([problem.id for problem in problems])
    for problem, numbered in zip(problems, ids, strict=True):
        if problem.id != numbered and not number_repeated:
            raise RepeatedId(f"{source.path}: the id {problem.id!r} occurs twice")
    return [replace(problem, id=own) for problem, own in zip(problems, ids, strict=True)]


def _own_id(row: Mapping[str, Any]) -> str:
    """Returns the id that a row names; empty if it names none."""
    own_id = row.get("id")
    is_missing = own_id is None or (isinstance(own_id, float) and math.isnan(own_id))
    return "" if is_missing else read_text(row, "id")


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
