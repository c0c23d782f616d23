"""The flags that name a problem set, the same for every command that asks a policy."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from run_lib.commands import InputError, at_least, naming
from run_lib.text import shorten, some_of
from search_lib.answer_formats import Comparer
from search_lib.benchmarks import (
    BenchmarkSource,
    MissingColumn,
    Problem,
    RepeatedId,
    find_benchmark,
    load_problems,
)
from search_lib.grading.references import comparable


@dataclass(frozen=True)
class ProblemFlags:
    """Which problems, and how they are read."""

    benchmark: str
    """aime-24, aime-25, hmmt-feb-24, hmmt-feb-25, toy; a .jsonl, .json, .csv or .parquet file; or a
    Hub data set owner/name."""
    _: KW_ONLY
    max_problems: int | None = None
    """Only the first so many problems of the benchmark."""
    split: str | None = None
    """Split of a Hub data set, if not its usual one."""
    problem_column: str | None = None
    """Column of the questions, if not the benchmark's usual one."""
    answer_column: str | None = None
    """Column of the reference answers, if not the benchmark's usual one."""
    repeated_ids: Literal["number"] | None = None
    """number: problems whose id has occurred are told apart by a number, as in 7, 7#2, 7#3. By
    default a benchmark with repeated ids is refused."""

    def load(self) -> tuple[BenchmarkSource, list[Problem]]:
        """Loads the problems.

        Raises:
            InputError: Naming the flag and, if it is one, the row at fault.
        """
        at_least(1, max_problems=self.max_problems)
        with naming("--benchmark"):
            source = find_benchmark(
                self.benchmark, self.split, self.problem_column, self.answer_column
            )
            try:
                problems = load_problems(source, number_repeated=self.repeated_ids == "number")
            except MissingColumn as error:
                raise InputError(
                    f"--benchmark {error}: name the right ones with --problem_column and "
                    "--answer_column"
                ) from error
            except RepeatedId as error:
                raise InputError(
                    f"--benchmark {error}: --repeated_ids number tells such problems apart"
                ) from error
        return source, problems[: self.max_problems]

    def check_references(self, problems: Sequence[Problem], comparer: Comparer) -> None:
        """Prints which references no answer can be compared with, if there are any.

        Raises:
            InputError: If that is all of them.
        """
        verdicts = comparable([problem.answer for problem in problems], comparer)
        unreadable = [
            f"{problem.id}: {shorten(problem.answer, 60)!r}"
            for problem, is_comparable in zip(problems, verdicts, strict=True)
            if not is_comparable
        ]
        if not unreadable:
            return
        line = (
            f"{len(unreadable)} of {len(problems)} references can't be compared with an answer: "
            f"{some_of(unreadable)}"
        )
        if len(unreadable) == len(problems):
            raise InputError(f"--benchmark {self.benchmark}: {line}")
        print(line)
