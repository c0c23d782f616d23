"""The flags of `inference_eval.py`, and what they must satisfy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from run_lib.commands import InputError, at_least, parse_shard
from run_lib.settings import free
from search_lib.answer_formats import AnswerFormat
from search_lib.answer_rules import ANSWER_RULES, RulesName, check_answers
from search_lib.benchmarks import BenchmarkSource, Problem
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.plugins import PluginFlag
from search_lib.problem_flags import AskingFlags
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.registry import HTTP, PLUGIN, SCORERS
from search_lib.strategies import Limits, StrategyFactory, describe_strategies, strategy_factory
from search_lib.strategies.base import StrategySettings
from search_lib.vote_flags import VoteFlags

PROGRAM = "inference_eval.py"

MAX_SEARCHES = 10_000_000
"""A run holds the keys of all its searches in memory."""

SEARCH_TYPES = "How a tree grows, N being --num_blocks. " + " ".join(
    f"{form}: {rule}" for form, rule in describe_strategies().items()
)


@dataclass(frozen=True)
class Args(AskingFlags):
    """Value-guided search on a benchmark. Budget = num_blocks x num_repetitions."""

    benchmark: str = "aime-24"
    piref_model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    """The policy that generates: Hub id or folder."""
    classifier_ckpt_path: str = "VGS-AI/DeepSeek-VM-1.5B"
    """The model of --scorer that guides and weighs: Hub id or folder of a value model, a step PRM
    or a reward model, or any name for --scorer http. With --scorer none there is none."""
    output_path: Path = Path("inference_outputs.jsonl")
    """Records go here, one JSON line a search. Its folder also gets run_config.json, metrics.json,
    answers.jsonl and blocks.jsonl."""
    search_type: Annotated[str, tyro.conf.arg(help=SEARCH_TYPES)] = "beam2"
    strategy_settings: StrategySettings = StrategySettings()
    num_blocks: int = 8
    """Blocks (or samples, for bon) of one tree: the budget N."""
    num_repetitions: int = 1
    """Independent trees a problem (DVTS). Metrics are given for every power of two of them."""
    stop: Literal["never", "decided", "beta", "value"] = "never"
    """When a problem gets no further tree (docs/search.md): decided once no vote to come can change
    the winner (of WMV, or of MV without values); beta and value once their confidence in the
    leading answer is above --stop_confidence. Its trees then start in order."""
    stop_confidence: float | None = None
    """For --stop beta (0.95 if left out) and value (0.8), between 0 and 1."""
    block_size: int = 4096
    """Most tokens of a block."""
    max_length: int = 16384
    """Most tokens of a response."""
    sampling: Sampling = Sampling()
    seed: int = 1337
    """Every random draw derives from this, the problem, the repetition and the path."""
    max_concurrent: Annotated[int, tyro.conf.arg(aliases=["--batch_size"])] = free(32)
    """Searches in flight at once: the next one starts as soon as one ends. Several GPUs want more.
    The published spelling works, too."""
    speculate: bool = free(False)
    """Generates blocks that a search will probably ask for while it waits for others: the same
    results sooner, where the engine has room for more blocks at once, for some wasted tokens
    (docs/search.md)."""
    engine_flags: EngineFlags = EngineFlags()
    scorer_flags: ScorerFlags = ScorerFlags()
    shard: str | None = None
    """Part i/n of the searches, i from 0, for n machines with one command but for this. Its records
    go to the folder shard-i-of-n below that of --output_path; python -m search_lib.results.shards
    merge joins them and computes the metrics."""
    confidence: int | None = None
    """Also records how sure the policy was of each response, for votes that weigh by it, in windows
    of so many tokens; DeepConf takes 2048 (docs/votes.md)."""
    save_blocks: bool = free(True)
    """Saves the token ids of all blocks, dropped ones too, in blocks.jsonl beside the records: 1 to
    2 bytes a token of text, compressed."""
    answers: RulesName = free("strict")
    """How answers are counted: strict, or published as the published code counts them, for
    comparisons with its tables (docs/search.md). Records can be counted again by either."""
    vote_flags: VoteFlags = VoteFlags()
    plugin_flag: PluginFlag = PluginFlag()
    neptune_project: str | None = free(None)
    """Also logs the metrics to this Neptune project (offline without NEPTUNE_API_TOKEN)."""
    logger_tags: tuple[str, ...] = free(())
    """Tags of the run in Neptune."""

    @property
    def value_model(self) -> str | None:
        """The model of the scorer; None with `--scorer none`."""
        return self.classifier_ckpt_path if self.scorer_flags.has_values else None

    def find_strategy(self, stop_token_ids: tuple[int, ...] = ()) -> StrategyFactory:
        """Returns what starts a search; raises InputError for settings that it can't have."""
        limits = Limits(self.max_length, self.block_size, stop_token_ids)
        has_values, settings = self.scorer_flags.has_values, self.strategy_settings
        return strategy_factory(
            self.search_type, self.num_blocks, limits, has_values, settings, self.confidence
        )

    def check(self) -> None:
        """Raises InputError for values that no run can have; `settle_engine` checks the engine.

        It loads the plugin, whose names are as good as others.
        """
        self.plugin_flag.load()
        self.engine_flags.check_values()
        self.scorer_flags.check()
        self.sampling.check()
        check_answers(self.answers, self.find_format().name, self.think_tags)
        at_least(
            1,
            num_repetitions=self.num_repetitions,
            max_concurrent=self.max_concurrent,
        )
        if self.confidence is not None:
            at_least(1, confidence=self.confidence)
        self.find_strategy()
        features = {"values": self.scorer_flags.has_values, "confidences": self.confidence}
        self.vote_flags.check([name for name, is_there in features.items() if is_there])
        self._check_stop()
        if self.scorer_flags.token_values and not self.save_blocks:
            raise InputError("--token_values are saved with the blocks, not with --no_save_blocks")
        has_no_name = self.classifier_ckpt_path == Args.classifier_ckpt_path
        if SCORERS[self.scorer_flags.scorer].family in (HTTP, PLUGIN) and has_no_name:
            raise InputError(
                f"--scorer {self.scorer_flags.scorer} needs --classifier_ckpt_path: a name for the "
                "scorer, by which the run is recorded"
            )
        if self.output_path.suffix != ".jsonl":
            raise InputError(f"--output_path must end in .jsonl, got {self.output_path}")
        parse_shard(self.shard or "0/1")

    def _check_stop(self) -> None:
        if self.stop == "value" and not self.scorer_flags.has_values:
            raise InputError("--stop value weighs by values, and --scorer none gives none")
        if self.stop_confidence is None:
            return
        if self.stop not in ("beta", "value"):
            raise InputError(f"--stop_confidence is for --stop beta and value, not {self.stop}")
        if not 0 < self.stop_confidence < 1:
            raise InputError(
                f"--stop_confidence must be between 0 and 1, got {self.stop_confidence}"
            )


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
