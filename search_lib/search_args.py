"""The flags of `inference_eval.py`, and what they must satisfy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from run_lib.commands import InputError, parse_shard
from run_lib.settings import free
from search_lib.answer_formats import AnswerFormat
from search_lib.answer_rules import ANSWER_RULES, RulesName, check_answers
from search_lib.benchmarks import BenchmarkSource, Problem
from search_lib.problem_flags import AskingFlags
from search_lib.search_flags import SearchFlags
from search_lib.vote_flags import VoteFlags

PROGRAM = "inference_eval.py"

MAX_SEARCHES = 10_000_000
"""A run holds the keys of all its searches in memory."""


@dataclass(frozen=True)
class Args(SearchFlags, AskingFlags):
    """Value-guided search on a benchmark. Budget = num_blocks x num_repetitions."""

    benchmark: str = "aime-24"
    output_path: Path = Path("inference_outputs.jsonl")
    """Records go here, one JSON line a search. Its folder also gets run_config.json, metrics.json,
    answers.jsonl and blocks.jsonl."""
    shard: str | None = None
    """Part i/n of the searches, i from 0, for n machines with one command but for this. Its records
    go to the folder shard-i-of-n below that of --output_path; python -m search_lib.results.shards
    merge joins them and computes the metrics."""
    save_blocks: bool = free(True)
    """Saves the token ids of all blocks, dropped ones too, in blocks.jsonl beside the records: 1 to
    2 bytes a token of text, compressed."""
    answers: RulesName = free("strict")
    """How answers are counted: strict, or published as the published code counts them, for
    comparisons with its tables (docs/search.md). Records can be counted again by either."""
    vote_flags: VoteFlags = VoteFlags()
    neptune_project: str | None = free(None)
    """Also logs the metrics to this Neptune project (offline without NEPTUNE_API_TOKEN)."""
    logger_tags: tuple[str, ...] = free(())
    """Tags of the run in Neptune."""

    def check(self) -> None:
        """Raises InputError for values that no run can have; `settle_engine` checks the engine.

        It loads the plugin, whose names are as good as others.
        """
        super().check()
        check_answers(self.answers, self.find_format().name, self.think_tags)
        features = {"values": self.scorer_flags.has_values, "confidences": self.confidence}
        self.vote_flags.check([name for name, is_there in features.items() if is_there])
        if self.scorer_flags.token_values and not self.save_blocks:
            raise InputError("--token_values are saved with the blocks, not with --no_save_blocks")
        if self.output_path.suffix != ".jsonl":
            raise InputError(f"--output_path must end in .jsonl, got {self.output_path}")
        parse_shard(self.shard or "0/1")


def load_benchmark(args: Args) -> tuple[BenchmarkSource, list[Problem]]:
    """Loads the problems that are to be searched.

    Raises:
        InputError: Naming the flag and, if it is one, the row at fault.
    """
    source, problems = args.load()
    if len(problems) * args.num_repetitions > MAX_SEARCHES:
        raise InputError(
            f"--num_repetitions {args.num_repetitions} of {len(problems)} problems make more than "
            f"{MAX_SEARCHES:,} searches"
        )
    return source, problems


def check_references(args: Args, problems: Sequence[Problem], answer_format: AnswerFormat) -> None:
    """Prints which references can't be compared with an answer; see `AskingFlags`."""
    comparison = ANSWER_RULES[args.answers].comparison
    with answer_format.open_comparer(comparison=comparison) as comparer:
        args.check_references(problems, comparer)
