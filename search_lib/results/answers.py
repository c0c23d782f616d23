"""What every response of a run answers, its class, and whether it is right: a line a problem.

    {"problem_id": "7", "reference": "25", "answers": [["25", null], ["5"]],
     "classes": [[0, null], [1]], "correct": [[true, false], [false]]}

Response k of search (repetition) r is `[r][k]` in each list, k in the order of its record.
Responses of one class have the same answer, in the grader's eyes. The class is null for a response
that takes no part in votes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from run_lib.commands import InputError
from run_lib.files import atomic_file, naming_file
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.results.graded import GradedProblem


def answers_name(rules: AnswerRules) -> str:
    """Returns the name of the file of answers by some rules."""
    return "answers.jsonl" if rules is STRICT else f"answers.{rules.name}.jsonl"


def read_answers(path: Path, rules: AnswerRules) -> dict[str, GradedProblem] | None:
    """Returns the problems of an `answers_file`, without values; None if there is no file.

    Args:
        path: The file.
        rules: The rules by which it was counted.

    Raises:
        InputError: At a line that is none of them; names the file and the line.
    """
    if not path.exists():
        return None
    graded = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            graded[row["problem_id"]] = GradedProblem(
                row["reference"], row["answers"], row["classes"], row["correct"], [], rules
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: no line of answers: {error!r}") from error
    return graded


class AnswersWriter:
    """Takes the answers of a run's problems, one by one; see `answers_file`.

    Args:
        lines: Where their lines go, as they come.
    """

    def __init__(self, lines: IO[bytes]):
        self._lines = lines
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, problem_id: str, problem: GradedProblem) -> None:
        """Adds the answers of a complete problem."""
        row = {
            "problem_id": problem_id,
            "reference": problem.reference,
            "answers": problem.answers,
            "classes": problem.classes,
            "correct": problem.correct,
        }
        # Half of a surrogate pair, which UTF-8 doesn't take, becomes JSON's escape for it.
        line = f"{json.dumps(row, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
        self._places[problem_id] = self._lines.tell(), len(line)
        self._lines.write(line)

    def sorted_lines(self) -> Iterator[bytes]:
        """Yields the lines by their problems' ids."""
        for _, (start, length) in sorted(self._places.items()):
            self._lines.seek(start)
            yield self._lines.read(length)


@contextmanager
def answers_file(path: Path) -> Iterator[AnswersWriter]:
    """Yields what writes the answers of a run; the file is replaced when the block succeeds.

    Until then the lines stand in a file without a name beside it, not in memory.
    """
    with naming_file(path), TemporaryFile(dir=path.parent) as lines:
        writer = AnswersWriter(lines)
        yield writer
        with atomic_file(path) as file:
            file.writelines(writer.sorted_lines())
