"""What every response of a run answers, its class, and whether it is right: a line a problem.

    {"problem_id": "7", "reference": "25", "answers": [["25", null], ["5"]],
     "classes": [[0, null], [1]], "correct": [[true, false], [false]]}

Response k of search (repetition) r is `[r][k]` in each list, k in the order of its record.
Responses of one class have the same answer, in the grader's eyes. The class is null for a response
that takes no part in votes.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from run_lib.commands import InputError
from run_lib.files import replace_file
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.results.metrics import GradedProblem


def answers_name(rules: AnswerRules) -> str:
    """Returns the name of the file of answers by some rules."""
    return "answers.jsonl" if rules is STRICT else f"answers.{rules.name}.jsonl"


def read_answers(path: Path, rules: AnswerRules) -> dict[str, GradedProblem] | None:
    """Returns the problems that `write_answers` wrote, without values; None if there is no file.

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


def write_answers(path: Path, graded: Mapping[str, GradedProblem]) -> None:
    """Writes the answers of all complete problems, in the order given."""
    lines = [
        json.dumps(
            {
                "problem_id": problem_id,
                "reference": problem.reference,
                "answers": problem.answers,
                "classes": problem.classes,
                "correct": problem.correct,
            },
            ensure_ascii=False,
        )
        for problem_id, problem in graded.items()
    ]
    # Half of a surrogate pair, which UTF-8 doesn't take, becomes JSON's escape for it.
    content = "".join(f"{line}\n" for line in lines)
    replace_file(path, content.encode("utf-8", errors="backslashreplace"))
