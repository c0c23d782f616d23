"""The question and the reference answer in the row of a data set, by its kind."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from run_lib.seeds import derive_seed
from search_lib.benchmark_rows import read_text
from search_lib.grading.answers import extract_answer

RowReader = Callable[[Mapping[str, Any], str, str], tuple[str, str]]
"""(row, column of the question, column of the answer) -> question and reference answer.

Raises ValueError for a row without them, or with other types; it names the column."""

LETTERS = "ABCDE"

_FINAL_ANSWER = re.compile(r"(?<!#)####\s*([^\n#]*[^\s#])\s*\Z")
"""The end of a worked solution in the form of GSM8K."""

_AGIEVAL_QUERY = re.compile(r"\s*Q:\s*(.*\S)\s*\n\s*A:[^\n]*", re.DOTALL)
"""AGIEval's zero-shot prompt, `Q: QUESTION`, then `A: The answer is`."""

_NO_ANSWER = frozenset({"None", "nan", "NaN", "null", "NULL", "<NA>"})
"""What other programs write for a value that is missing."""


def open_question(
    row: Mapping[str, Any], problem_column: str, answer_column: str
) -> tuple[str, str]:
    r"""Reads a question whose answer is written down.

    Of a worked solution that ends in `#### 18` or has `\boxed{18}` the answer is 18.
    """
    question, answer = _texts(row, problem_column, answer_column)
    if answer.strip() in _NO_ANSWER:
        raise ValueError(f"no question or no answer: {answer.strip()!r} stands for none")
    if final := _FINAL_ANSWER.search(answer):
        answer = final[1]
    return question, extract_answer(answer, after=None) or answer


def agieval_question(
    row: Mapping[str, Any], problem_column: str, answer_column: str
) -> tuple[str, str]:
    """Reads an open question out of the prompt that AGIEval puts it into."""
    query, answer = open_question(row, problem_column, answer_column)
    found = _AGIEVAL_QUERY.fullmatch(query)
    return found[1] if found else query, answer


def labelled_options(
    row: Mapping[str, Any], problem_column: str, answer_column: str
) -> tuple[str, str]:
    """Reads a multiple-choice question with the column `choices`, of labels and texts.

    The answer column holds the label of the right one. Labels become letters, in order: some rows
    of ARC number their options.
    """
    question, key = _texts(row, problem_column, answer_column)
    labels, options = _choices(row)
    if key.strip() not in labels:
        raise ValueError(f"the answer {key!r} is none of the options {', '.join(labels)}")
    return _with_options(question, options), LETTERS[labels.index(key.strip())]


def sciq_question(
    row: Mapping[str, Any], problem_column: str, answer_column: str
) -> tuple[str, str]:
    """Reads a multiple-choice question with three columns `distractor1` to `distractor3`.

    The right option's place among them is drawn with the question as the seed: a question has the
    same options in every order and selection of rows.
    """
    question, right = _texts(row, problem_column, answer_column)
    options = [read_text(row, f"distractor{number}") for number in (1, 2, 3)]
    place = derive_seed("place of the right option", question) % (len(options) + 1)
    options.insert(place, right)
    return _with_options(question, options), LETTERS[place]


def _texts(row: Mapping[str, Any], problem_column: str, answer_column: str) -> tuple[str, str]:
    question, answer = read_text(row, problem_column), read_text(row, answer_column)
    if not question.strip() or not answer.strip():
        raise ValueError("no question or no answer")
    return question, answer


def _choices(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns labels and texts of the options: two lists in an object, or a list of objects."""
    choices = row.get("choices")
    pairs: Sequence[Any] = choices if isinstance(choices, list) else ()
    if isinstance(choices, Mapping):
        labels, options = choices.get("label"), choices.get("text")
        if isinstance(labels, list) and isinstance(options, list) and len(labels) == len(options):
            pairs = [
                {"label": label, "text": text} for label, text in zip(labels, options, strict=True)
            ]
    if not pairs or not all(isinstance(pair, Mapping) for pair in pairs):
        raise ValueError("the column 'choices' has no labels and texts, one of each an option")
    return [read_text(pair, "label").strip() for pair in pairs], [
        read_text(pair, "text") for pair in pairs
    ]


def _with_options(question: str, options: Sequence[str]) -> str:
    """Returns the question with its options below it, a line each: (A), (B), ..."""
    if not 2 <= len(options) <= len(LETTERS) or not all(option.strip() for option in options):
        raise ValueError(f"{len(options)} options: 2 to {len(LETTERS)} can be read, none empty")
    lines = [f"({LETTERS[place]}) {option.strip()}" for place, option in enumerate(options)]
    return "\n".join([question.strip(), *lines])
