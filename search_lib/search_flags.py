"""The flags of a search: its models, how its trees grow, and what it may cost."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from run_lib.commands import InputError, at_least
from run_lib.settings import free
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.plugins import PluginFlag
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.registry import HTTP, PLUGIN, SCORERS
from search_lib.strategies import Limits, StrategyFactory, describe_strategies, strategy_factory
from search_lib.strategies.base import StrategySettings

SEARCH_TYPES = "How a tree grows, N being --num_blocks. " + " ".join(
    f"{form}: {rule}" for form, rule in describe_strategies().items()
)


@dataclass(frozen=True)
class SearchFlags:
    """The search of one question; its budget is num_blocks x num_repetitions."""

    piref_model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    """The policy that generates: Hub id or folder."""
    classifier_ckpt_path: str = "VGS-AI/DeepSeek-VM-1.5B"
    """The model of --scorer that guides and weighs: Hub id or folder of a value model, a step PRM
    or a reward model, or any name for --scorer http. With --scorer none there is none."""
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
    confidence: int | None = None
    """Also records how sure the policy was of each response, for votes that weigh by it, in windows
    of so many tokens; DeepConf takes 2048 (docs/votes.md)."""
    plugin_flag: PluginFlag = PluginFlag()

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
        """Raises InputError for values that no search can have; `settle_engine` checks the engine.

        It loads the plugin, whose names are as good as others.
        """
        self.plugin_flag.load()
        self.engine_flags.check_values()
        self.scorer_flags.check()
        self.sampling.check()
        at_least(
            1,
            num_repetitions=self.num_repetitions,
            max_concurrent=self.max_concurrent,
        )
        if self.confidence is not None:
            at_least(1, confidence=self.confidence)
        self.find_strategy()
        self._check_stop()
        has_no_name = self.classifier_ckpt_path == SearchFlags.classifier_ckpt_path
        if SCORERS[self.scorer_flags.scorer].family in (HTTP, PLUGIN) and has_no_name:
            raise InputError(
                f"--scorer {self.scorer_flags.scorer} needs --classifier_ckpt_path: a name for the "
                "scorer, by which the run is recorded"
            )

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
