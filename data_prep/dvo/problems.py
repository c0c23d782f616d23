"""Problems: shuffles a problem set, and gives every round of DVO a part of its own.

python -m data_prep.dvo problems --benchmark gsm8k --split train --output outputs/dvo/problems \
    --num_rounds 3 --problems_per_round 2000

OUTPUT/round_1.parquet, round_2.parquet, ... have the columns `id`, `problem` and `answer`, for
`data_prep.roll_in --input` and `data_prep.dvo trees --benchmark`. No problem is in two of them; two
problems with the same text are two problems.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import PROBLEMS, ProblemsArgs
    from run_lib.commands import check_command_line

    check_command_line(ProblemsArgs, PROBLEMS, __doc__)

import random
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dvo.args import PROBLEMS, ProblemsArgs
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import atomic_folder
from run_lib.settings import Settings, SettingsFile, as_json
from search_lib.benchmarks import Problem, problems_digest

SETTINGS_NAME = "problems_settings.json"
SCHEMA = pa.schema({"id": pa.string(), "problem": pa.string(), "answer": pa.string()})


def deal(problems: Sequence[Problem], args: ProblemsArgs) -> list[list[Problem]]:
    """Returns the problems of each round.

    Raises:
        InputError: If there are too few.
    """
    wanted = args.num_rounds * args.problems_per_round
    if len(problems) < wanted:
        raise InputError(
            f"--benchmark {args.benchmark} has {len(problems):,} problems; --num_rounds "
            f"{args.num_rounds} x --problems_per_round {args.problems_per_round} are {wanted:,}"
        )
    order = list(problems)
    random.Random(f"problems of DVO's rounds, {args.seed}").shuffle(order)
    size = args.problems_per_round
    return [order[size * number : size * (number + 1)] for number in range(args.num_rounds)]


def run(args: ProblemsArgs) -> None:
    """Writes the files, all or none, unless they are there.

    Raises:
        InputError: If something that was given can't be used.
    """
    args.check()
    _, problems = args.load()
    settings = Settings(as_json(args), {"benchmark": problems_digest(problems)})
    advice = "Give these problems another --output"
    file = SettingsFile(args.output / SETTINGS_NAME, args.output, advice, free={"output"})
    if args.output.exists():
        file.check(settings)
        print(f"{args.output} is complete already")
        return
    rounds = deal(problems, args)
    with naming("--output", OSError), atomic_folder(args.output) as folder:
        for number, dealt in enumerate(rounds, start=1):
            table = pa.Table.from_pylist([vars(problem) for problem in dealt], schema=SCHEMA)
            pq.write_table(table, folder / f"round_{number}.parquet")
        SettingsFile(folder / SETTINGS_NAME, folder, advice).bind(settings, is_empty=True)
    print(f"{args.output}: {args.num_rounds} rounds of {args.problems_per_round:,} problems")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(ProblemsArgs, PROBLEMS, __doc__, argv)
    run_command(PROBLEMS, lambda: run(args))


if __name__ == "__main__":
    main()
