"""The scorers by name, with what is known of each before anything of it is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VALUE_MODEL = "value model"
STEP_PRM = "step PRM"
REWARD_MODEL = "reward model"
HTTP = "HTTP scorer"
PLUGIN = "scorer of a plugin"
OTHER = "scorer of another kind"


@dataclass(frozen=True)
class ScorerKind:
    """A scorer that `--scorer` names.

    Attributes:
        summary: One line for the help text.
        family: Scorers of one family give equal values to rounding, for one model.
        servers: What serves at `--scorer_url`, for messages; None for one without servers.
        opener: Opens a scorer of a plugin; see `factory.OPENERS` for the others.
    """

    summary: str
    family: str
    servers: str | None = None
    opener: Callable[..., Any] | None = None


SCORERS: dict[str, ScorerKind] = {
    "hf": ScorerKind("the value model, by transformers in this process", VALUE_MODEL),
    "sglang": ScorerKind("the value model, in an SGLang server of this run's own", VALUE_MODEL),
    "sglang_server": ScorerKind(
        "the value model, in SGLang servers at --scorer_url",
        VALUE_MODEL,
        servers="scripts/serve_value_model.sh",
    ),
    "prm": ScorerKind("a step PRM, by transformers in this process", STEP_PRM),
    "vllm_pooling": ScorerKind("a step PRM, in vLLM servers (/pooling)", STEP_PRM, servers="vLLM"),
    "reward": ScorerKind(
        "a reward model with a sequence classification head, by transformers in this process",
        REWARD_MODEL,
    ),
    "vllm_classify": ScorerKind(
        "such a reward model, in vLLM servers (/classify)",
        REWARD_MODEL,
        servers="vLLM",
    ),
    "sglang_reward": ScorerKind(
        "such a reward model, in SGLang servers (/v1/embeddings)",
        REWARD_MODEL,
        servers="SGLang with --is-embedding",
    ),
    "vllm_score": ScorerKind(
        "a cross-encoder of problem and response, in vLLM servers (/score)",
        "cross-encoder",
        servers="vLLM",
    ),
    "http": ScorerKind(
        "any scorer over HTTP, by the schema of docs/scorers.md",
        HTTP,
        servers="your own server",
    ),
    "none": ScorerKind(
        "plain sampling without values, for --search_type bon, random<w> and deepconf<n>", "none"
    ),
}
"""All scorers. What opens each of them stands in `factory.OPENERS`."""


def family_of(flags: Mapping[str, object]) -> str:
    """Returns the family of the scorer that the saved flags of a run name."""
    kind = SCORERS.get(str(flags.get("scorer", "hf")))
    return kind.family if kind else OTHER


def describe_scorers() -> str:
    """Returns the names with their summaries, for the help text of `--scorer`."""
    return "; ".join(f"{name}: {kind.summary}" for name, kind in SCORERS.items())
