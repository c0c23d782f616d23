"""The flags of the scorer that values blocks."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from run_lib.commands import GPU_REQUIREMENTS, InputError, at_least, check_installed, naming
from run_lib.settings import free
from search_lib.engines.addresses import check_url
from search_lib.scorers.registry import SCORERS, STEP_PRM, VALUE_MODEL, describe_scorers

LayoutName = Literal["qwen", "shepherd", "skywork", "rlhflow"]
AggregationName = Literal["last", "min", "mean", "product"]

SCORER_HELP = f"What values blocks, with the model of --classifier_ckpt_path. {describe_scorers()}."


@dataclass(frozen=True)
class ScorerFlags:
    """How blocks are valued, whatever the value model."""

    scorer: Annotated[str, tyro.conf.arg(help=SCORER_HELP)] = free("hf")
    prm_layout: LayoutName | None = None
    """Of prm and vllm_pooling: how a step PRM reads steps (docs/scorers.md). By default as its
    architecture tells; language models (shepherd, rlhflow) don't."""
    step_aggregation: AggregationName | None = None
    """Of prm and vllm_pooling: the value of a response, of the scores of its steps; last by
    default."""
    scorer_url: tyro.conf.UseAppendAction[tuple[str, ...]] = free(())
    """Of scorers in servers: http://host:port of a server or router, or of several equal ones,
    given once for each."""
    value_cache_tokens: int = free(262_144)
    """Of hf and prm: tokens whose key-value states are kept between blocks, 28 KiB each for
    DeepSeek-VM-1.5B in bfloat16, 56 KiB for Qwen2.5-Math-PRM-7B. All beams of all searches in
    flight should fit; else prefixes are computed again, which tokens_scored in metrics.json
    shows."""

    token_values: bool = free(False)
    """Also saves the value after every token of every block, to within 1/510, in blocks.jsonl:
    about 1 byte a token more. Of --scorer hf: an SGLang server gives one value a block."""

    def check(self) -> None:
        """Raises InputError for a scorer that can't be opened, before anything is loaded."""
        kind = SCORERS.get(self.scorer)
        if kind is None:
            raise InputError(f"unknown --scorer {self.scorer!r}; known: {', '.join(SCORERS)}")
        if self.scorer == "sglang":
            check_installed("SGLang", "--scorer sglang", GPU_REQUIREMENTS)
        if kind.servers and not self.scorer_url:
            raise InputError(
                f"--scorer {self.scorer} needs --scorer_url, where {kind.servers} serves"
            )
        if self.scorer_url and not kind.servers:
            others = ", ".join(name for name, other in SCORERS.items() if other.servers)
            raise InputError(f"--scorer_url is for --scorer {others}, not {self.scorer}")
        for flag, value in (
            ("prm_layout", self.prm_layout is not None),
            ("step_aggregation", self.step_aggregation is not None),
        ):
            if value and kind.family != STEP_PRM:
                raise InputError(f"--{flag} is for step PRMs (--scorer prm), not {self.scorer}")
        with naming("--scorer_url"):
            for url in self.scorer_url:
                check_url(url)
        if self.token_values and self.scorer != "hf":
            gives = "no values" if self.scorer == "none" else "one value a block"
            raise InputError(f"--token_values is for --scorer hf; {self.scorer} gives {gives}")
        at_least(0, value_cache_tokens=self.value_cache_tokens)

    @property
    def has_values(self) -> bool:
        """Whether blocks are valued at all."""
        return self.scorer != "none"

    @property
    def has_value_model(self) -> bool:
        """Whether the scorer is a value model, which reads the policy's tokens."""
        return SCORERS[self.scorer].family == VALUE_MODEL

    def max_path_length(self, context: int) -> int:
        """Returns the most tokens of a path, for a value model with a context of so many.

        SGLang keeps room for one more token, even where none is generated.
        """
        return context if self.scorer == "hf" else context - 1
