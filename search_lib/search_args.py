"""The flags of `inference_eval.py`, and what they must satisfy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from run_lib.commands import InputError, at_least, naming, parse_shard
from run_lib.settings import free
from run_lib.text import shorten, some_of
from search_lib.answer_rules import ANSWER_RULES, RulesName
from search_lib.benchmarks import (
    BenchmarkSource,
    MissingColumn,
    Problem,
    RepeatedId,
    find_benchmark,
    load_problems,
)
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.grading import Grader
from search_lib.grading.references import comparable
from search_lib.scorers.flags import ScorerFlags

MAX_SEARCHES = 10_000_000
"""A run holds the keys of all its searches in memory."""


@dataclass(frozen=True)
class Args:
    """Value-guided search on a benchmark. Budget = num_blocks x num_repetitions."""

    benchmark: str = "aime-24"
    """aime-24, aime-25, hmmt-feb-24, hmmt-feb-25, toy; a .jsonl, .json, .csv or .parquet file; or a
    Hub data set owner/name."""
    piref_model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    """The policy that generates: Hub id or folder."""
    classifier_ckpt_path: str = "VGS-AI/DeepSeek-VM-1.5B"
    """The value model that guides and weighs: Hub id or folder."""
    output_path: Path = Path("inference_outputs.jsonl")
    """Records go here, one JSON line a search. Its folder also gets run_config.json, metrics.json
    and answers.jsonl."""
    search_type: str = "beam2"
    """beam<w> (width w), bfs (one beam), bon (independent full samples), random<w> (ablation:
    survivors drawn at random, w = 2 if left out)."""
    num_blocks: int = 8
    """Blocks (or samples, for bon) of one tree: the budget N."""
    num_repetitions: int = 1
    """Independent trees a problem (DVTS). Metrics are given for every power of two of them."""
    block_size: int = 4096
    """Most tokens of a block."""
    max_length: int = 16384
    """Most tokens of a response."""
    sampling: Sampling = Sampling()
    seed: int = 1337
    """Every random draw derives from this, the problem, the repetition and the round."""
    max_concurrent: Annotated[int, tyro.conf.arg(aliases=["--batch_size"])] = free(32)
    """Searches in flight at once: the next one starts as soon as one ends. Several GPUs want more.
    The published spelling works, too."""
    engine_flags: EngineFlags = EngineFlags()
    scorer_flags: ScorerFlags = ScorerFlags()
    shard: str | None = None
    """Part i/n of the searches, i from 0, for n machines with one command but for this. Its records
    go to the folder shard-i-of-n below that of --output_path; python -m search_lib.results.shards
    merge joins them and computes the metrics."""
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
    answers: RulesName = free("strict")
    """How answers are counted: strict, or published as the published code counts them, for
    comparisons with its tables (docs/search.md). Records can be counted again by either."""
    neptune_project: str | None = free(None)
    """Also logs the metrics to this Neptune project (offline without NEPTUNE_API_TOKEN)."""
    logger_tags: tuple[str, ...] = free(())
    """Tags of the run in Neptune."""

    def check(self) -> None:
        """Raises InputError for values that no run can have; `settle_engine` checks the engine."""
        self.scorer_flags.check()
        self.sampling.check()
        at_least(
            1,
            num_repetitions=self.num_repetitions,
            max_concurrent=self.max_concurrent,
            max_problems=self.max_problems,
        )
        if self.output_path.suffix != ".jsonl":
            raise InputError(f"--output_path must end in .jsonl, got {self.output_path}")
        parse_shard(self.shard or "0/1")


def load_benchmark(args: Args) -> tuple[BenchmarkSource, list[Problem]]:
    """Loads the problems that are to be searched.

    Raises:
        InputError: Naming the flag and, if it is one, the row at fault.
    """
    with naming("--benchmark"):
        source = find_benchmark(args.benchmark, args.split, args.problem_column, args.answer_column)
        try:
            problems = load_problems(source, number_repeated=args.repeated_ids == "number")
        except MissingColumn as error:
            raise InputError(
                f"--benchmark {error}: name the right ones with --problem_column and "
                "--answer_column"
            ) from error
        except RepeatedId as error:
            raise InputError(
                f"--benchmark {error}: --repeated_ids number tells such problems apart"
            ) from error
    problems = problems[: args.max_problems]
    if len(problems) * args.num_repetitions > MAX_SEARCHES:
        raise InputError(
            f"--num_repetitions {args.num_repetitions} of {len(problems)} problems make more than "
            f"{MAX_SEARCHES:,} searches"
        )
    return source, problems


def check_references(args: Args, problems: Sequence[Problem]) -> None:
    """Prints which references no answer can be compared with, if there are any.

    Raises:
        InputError: If that is all of them.
    """
    with Grader(comparison=ANSWER_RULES[args.answers].comparison) as grader:
        verdicts = comparable([problem.answer for problem in problems], grader)
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
        raise InputError(f"--benchmark {args.benchmark}: {line}")
    print(line)
