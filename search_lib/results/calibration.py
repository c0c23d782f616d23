"""Values as the shares of right responses that they stand for, fitted on other problems.

    python -m search_lib.results.calibration outputs/tuning --output calibration.json
    python -m search_lib.results.summary outputs/aime-24 --vote CWMV --calibration calibration.json

The fit is an isotonic regression of right or wrong on the value, over all responses of a run that
take part in votes: the non-decreasing function with the least squared error. It is refused for a
run that has one of the problems it is fitted on, and for values of another model. No model is
loaded.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from run_lib.commands import InputError, parse_command_line, run_command
from run_lib.files import write_json
from search_lib.answer_rules import STRICT
from search_lib.calibration import Calibration, digest_of, fit_isotonic
from search_lib.results.answers import answers_name, read_answers
from search_lib.results.metrics import NO_REFERENCE
from search_lib.results.records import read_records
from search_lib.results.run_config import RunConfig

PROGRAM = "python -m search_lib.results.calibration"


@dataclass(frozen=True)
class Args:
    """Fit a calibration of values on a run, for votes on other problems."""

    run: tyro.conf.Positional[Path]
    """Folder of a run that has ended, or its file of records: the problems to fit on."""
    output: Path
    """The calibration, a .json file."""


def calibrate(args: Args) -> None:
    """Fits the calibration of a run, writes it, and prints what it changes.

    Raises:
        InputError: If there is no such run, it has not been counted, or it has no values.
    """
    path, config = RunConfig.find(args.run)
    graded = read_answers(path.with_name(answers_name(STRICT)), STRICT)
    if not graded:
        raise InputError(
            f"{args.run}: there are no answers of complete problems; "
            f"`python -m search_lib.results.summary {args.run}` counts them"
        )
    values: list[float] = []
    right: list[bool] = []
    problems: dict[str, None] = {}
    for record in read_records(path):
        if record.problem_id not in graded:
            continue
        problem = graded[record.problem_id]
        if problem.reference is None:
            continue
        counted = zip(
            record.responses,
            problem.classes[record.repetition],
            problem.correct[record.repetition],
            strict=True,
        )
        for response, own_class, is_right in counted:
            if own_class is not None and response.value is not None:
                values.append(response.value)
                right.append(is_right)
                problems[digest_of(record.problem)] = None
    if all(problem.reference is None for problem in graded.values()):
        raise InputError(f"{args.run}: {NO_REFERENCE}")
    if not values:
        raise InputError(f"{args.run}: no response has both an answer and a value")
    before, targets = np.array(values), np.array(right, float)
    knots, fitted = fit_isotonic(before, targets)
    calibration = Calibration(
        knots.tolist(), fitted.tolist(), list(problems), config.value_model_digest
    )
    write_json(args.output, asdict(calibration))
    errors = (np.mean((of - targets) ** 2) for of in (before, calibration.apply(values)))
    print(
        f"{len(values)} responses to {len(problems)} problems; mean squared error on them: "
        "{:.4f}, calibrated {:.4f}".format(*errors)
    )
    print(f"calibration: {args.output}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `python -m search_lib.results.calibration`."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: calibrate(args))


if __name__ == "__main__":
    main()
