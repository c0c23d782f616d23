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

from run_lib.files import replace_file
from search_lib.results.metrics import GradedProblem


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
