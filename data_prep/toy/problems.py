"""Writes problems of the toy task in the columns of OpenR1-Math, for data_prep.clean.

    python -m data_prep.toy.problems --output outputs/toy/problems.parquet --num_problems 1500

None of them is one of the held-out problems.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.toy.args import PROBLEMS, ProblemsConfig
    from run_lib.commands import check_command_line

    check_command_line(ProblemsConfig, PROBLEMS, __doc__)

import random
from collections.abc import Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.toy.args import PROBLEMS, ProblemsConfig
from data_prep.toy.task import ToyProblem, training_problems
from run_lib.commands import parse_command_line, run_command
from run_lib.files import replace_file


def problem_row(problem: ToyProblem, uuid: str) -> dict[str, str]:
    """Returns a problem in those columns of OpenR1-Math that are not about responses to it."""
    return {
        "problem": str(problem),
        "solution": problem.solution,
        "answer": str(problem.answer),
        "problem_type": "Number Theory",
        "question_type": "math-word-problem",
        "source": "toy",
        "uuid": uuid,
    }


def write_problems(config: ProblemsConfig) -> None:
    """Writes the file; the same settings give the same bytes.

    Raises:
        InputError: If the number of problems is not positive.
    """
    config.check()
    rng = random.Random(f"toy roll-outs, {config.seed}")
    rows = [
        problem_row(problem, f"toy-{config.seed}-{number:06d}")
        for number, problem in enumerate(islice(training_problems(rng), config.num_problems))
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(config.output, sink.getvalue())
    print(f"{config.output}: {len(rows):,} problems")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    config = parse_command_line(ProblemsConfig, PROBLEMS, __doc__, argv)
    run_command(PROBLEMS, lambda: write_problems(config))


if __name__ == "__main__":
    main()
