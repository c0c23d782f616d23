"""The flags that name a problem set, and those of every command that asks a policy."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from run_lib.commands import InputError, at_least, naming
from run_lib.text import shorten, some_of
from search_lib.answer_formats import ANSWER_FORMATS, AnswerFormat, AnswerFormatName, Comparer
from search_lib.benchmarks import (
    BenchmarkSource,
    MissingColumn,
    Problem,
    RepeatedId,
    find_benchmark,
    load_problems,
)
from search_lib.grading.references import comparable
from search_lib.thoughts import ThinkTags, Thoughts


@dataclass(frozen=True)
class ProblemFlags:
    """Which problems, and how they are read."""

    benchmark: str
    """aime-24, aime-25, aime-26, hmmt-feb-24, hmmt-feb-25, hmmt-nov-25, hmmt-feb-26, brumo-25,
    math-500, amc-23, olympiadbench, minerva, gsm8k, math, agieval-math, obqa, csqa, arc-challenge,
    sciq, toy; a .jsonl, .json, .csv or .parquet file; a Hub data set owner/name; or NAME=FILE, a
    copy with the columns of the benchmark of that name, such as csqa=train.jsonl."""
    _: KW_ONLY
    skip_problems: int | None = None
    """Leaves out the first so many problems of the benchmark, before --max_problems counts."""
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

    def find_source(self) -> BenchmarkSource:
        """Finds the benchmark, without reading it.

        Raises:
            InputError: If there is none of this name.
        """
        with naming("--benchmark"):
            return find_benchmark(
                self.benchmark, self.split, self.problem_column, self.answer_column
            )

    def load(self) -> tuple[BenchmarkSource, list[Problem]]:
        """Loads the problems.

        Raises:
            InputError: Naming the flag and, if it is one, the row at fault.
        """
        at_least(0, skip_problems=self.skip_problems)
        at_least(1, max_problems=self.max_problems)
        source = self.find_source()
        with naming("--benchmark"):
            try:
                problems = load_problems(source, number_repeated=self.repeated_ids == "number")
            except MissingColumn as error:
                raise InputError(
                    f"--benchmark {error}: name the right ones with --problem_column and "
                    "--answer_column, or the benchmark it is a copy of, as in gsm8k=FILE"
                ) from error
            except RepeatedId as error:
                raise InputError(
                    f"--benchmark {error}: --repeated_ids number tells such problems apart"
                ) from error
        rest = problems[self.skip_problems :]
        if not rest:
            raise InputError(
                f"--skip_problems {self.skip_problems} leaves none of the {len(problems)} problems "
                f"of --benchmark {self.benchmark}"
            )
        return source, rest[: self.max_problems]


@dataclass(frozen=True)
class AnswerFlags:
    """How a policy is asked to answer."""

    _: KW_ONLY
    answer_format: AnswerFormatName | None = None
    r"""How an answer is written, and compared: boxed (\boxed{42}), final_answer (Final Answer: 42,
    or Answer: 42, to the end of the line), choice (Final Answer: (B), a letter of A to E). By
    default choice for the benchmarks of multiple choice, and boxed for all others."""
    think_tags: ThinkTags = "auto"
    """Two texts that begin and end a thought: prompts end with the first and a line break, and an
    answer stands behind the second. none: the policy doesn't think before it answers. auto:
    <think> </think>, which prompts open for tokenizers of DeepSeek-R1's kind, and for others where
    their chat template does."""

    def find_format(self) -> AnswerFormat:
        """Returns how answers are written, and thoughts before them.

        Raises:
            InputError: If a tag is empty.
        """
        return self._format(self.answer_format or "boxed")

    def _format(self, name: str) -> AnswerFormat:
        with naming("--think_tags"):
            thoughts = Thoughts.of(self.think_tags)
        return replace(ANSWER_FORMATS[name], thoughts=thoughts)


@dataclass(frozen=True)
class AskingFlags(AnswerFlags, ProblemFlags):
    """Which problems, and how a policy is asked to answer them."""

    def find_format(self) -> AnswerFormat:
        """Returns how answers are written, and thoughts before them.

        Raises:
            InputError: If they can't be compared with the benchmark's references, or a tag is
                empty.
        """
        known = self.find_source().answer_formats
        if self.answer_format is not None and self.answer_format not in known:
            raise InputError(
                f"--answer_format {self.answer_format} is not for --benchmark {self.benchmark}, "
                f"whose answers are written as {' or '.join(known)}"
            )
        return self._format(self.answer_format or known[0])

    def check_references(self, problems: Sequence[Problem], comparer: Comparer) -> None:
        """Prints which references no answer can be compared with, if there are any.

        Raises:
            InputError: If that is all of them.
        """
        verdicts = comparable([problem.reference for problem in problems], comparer)
        unreadable = [
            f"{problem.id}: {shorten(problem.reference, 60)!r}"
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
