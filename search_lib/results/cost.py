"""Cost of searches: tokens and contexts of each, and the time of the run around them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from classifier_lib.flops import ModelSize

DEFINITIONS = {
    "tokens_generated": "new tokens of all blocks, kept or not",
    "tokens_scored": "tokens that the value model computed: new ones (blocks, prompts), and again "
    "those that its cache had dropped",
    "tokens_cached": "tokens of the scored paths (prefix + block, each candidate's) that a cache "
    "gave; with tokens_scored, all that scoring every candidate alone would compute",
    "policy_tokens_cached": "tokens of the extended paths (prompt + response so far, once a block) "
    "that a cache of the policy's engine gave",
    "policy_tokens_prefilled": "tokens of the extended paths that the policy's engine computed; "
    "with policy_tokens_cached, all that it would without a cache. They are not in policy_flops",
    "tokens_wasted": "tokens of blocks that --speculate generated ahead for nothing; they count in "
    "no other number",
    "blocks_cancelled": "blocks that --speculate gave up before they had ended; how many tokens "
    "they had is not known",
    "flops": "2 x N x tokens + 4 x layers x heads x head size x contexts. N: parameters but for "
    "embeddings, norms and biases; a language model's output matrix counts. Contexts: tokens that "
    "each of the tokens attends to, itself included, summed. policy_flops counts every generated "
    "token once, and no prompt or prefix; value_model_flops counts tokens_scored. Padding is left "
    "out",
    "wall_seconds": "of all sessions, each from its first search to its last record; sessions of "
    "several machines add up, too",
    "engine_busy_share": "share of wall_seconds in which the engine had a request, waiting ones "
    "included",
    "null": "not known: engine or scorer do not tell, or some records are of an earlier version; a "
    "value_model_size of null and no tokens_scored: there was no value model",
}
"""Meaning of the numbers in `metrics.json`, by name."""


@dataclass(frozen=True)
class SearchCost:
    """Cost of one search, and the clock of its session when it ended.

    A number is None where it is not known: engine or scorer don't tell, or the record is of an
    earlier version.

    Attributes:
        tokens_generated: New tokens of all blocks, kept or not.
        seconds: Seconds from its first request to its last answer; other searches ran meanwhile.
        contexts_generated: Tokens that each generated one attends to, itself included, summed.
        tokens_scored: Tokens that the value model computed.
        contexts_scored: As `contexts_generated`, of `tokens_scored`.
        tokens_cached: Tokens of all scored paths that a cache gave instead.
        policy_tokens_cached: Tokens of the extended paths, once for each block, that the policy's
            engine had in a cache.
        policy_tokens_prefilled: Tokens of these that it computed.
        tokens_wasted: Tokens of blocks that `--speculate` generated ahead, and that the search did
            not ask for; they count in none of the numbers above.
        blocks_cancelled: Blocks that it had asked for ahead and gave up before they ended: how far
            they came is not known.
        session: Name of the run of the command that this search belongs to; a run that was killed
            and started again has several.
        session_seconds: Wall time of the session up to this search's end.
        session_busy_seconds: Seconds of these with a request at the engine.
    """

    tokens_generated: int
    seconds: float
    contexts_generated: int | None = None
    tokens_scored: int | None = None
    contexts_scored: int | None = None
    tokens_cached: int | None = None
    session: str | None = None
    session_seconds: float | None = None
    session_busy_seconds: float | None = None
    policy_tokens_cached: int | None = None
    policy_tokens_prefilled: int | None = None
    tokens_wasted: int = 0
    blocks_cancelled: int = 0


@dataclass
class RunCost:
    """The costs of a run's searches, added up one by one; None where one of them is not known.

    Attributes:
        tokens_generated: See `SearchCost`.
        contexts_generated: See `SearchCost`.
        tokens_scored: See `SearchCost`.
        contexts_scored: See `SearchCost`.
        tokens_cached: See `SearchCost`.
        policy_tokens_cached: See `SearchCost`.
        policy_tokens_prefilled: See `SearchCost`.
        tokens_wasted: See `SearchCost`.
        blocks_cancelled: See `SearchCost`.
        sessions: (wall seconds, busy seconds) at the last record of each session; that of the
            name None stands for records of an earlier version, whose times are not known.
    """

    tokens_generated: int | None = 0
    contexts_generated: int | None = 0
    tokens_scored: int | None = 0
    contexts_scored: int | None = 0
    tokens_cached: int | None = 0
    policy_tokens_cached: int | None = 0
    policy_tokens_prefilled: int | None = 0
    tokens_wasted: int | None = 0
    blocks_cancelled: int | None = 0
    sessions: dict[str | None, tuple[float | None, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, costs: Iterable[SearchCost]) -> "RunCost":
        """Adds up the costs of searches."""
        total = cls()
        for cost in costs:
            total.add(cost)
        return total

    def add(self, cost: SearchCost) -> None:
        """Adds the cost of one search."""
        for name in (entry.name for entry in fields(self) if entry.name != "sessions"):
            total, value = getattr(self, name), getattr(cost, name)
            setattr(self, name, None if total is None or value is None else total + value)
        last_seconds, _ = self.sessions.get(cost.session, (None, None))
        if (cost.session_seconds or 0.0) >= (last_seconds or 0.0):
            self.sessions[cost.session] = cost.session_seconds, cost.session_busy_seconds

    def describe_waste(self) -> str | None:
        """Returns a sentence on what `--speculate` generated for nothing; None if it did not."""
        if not (self.tokens_wasted or self.blocks_cancelled):
            return None
        wasted, generated = self.tokens_wasted or 0, self.tokens_generated or 0
        return (
            f"--speculate: {wasted:,} tokens wasted beside {generated:,}, and "
            f"{self.blocks_cancelled:,} blocks given up before they ended"
        )

    def document(self, policy: ModelSize | None, value_model: ModelSize | None) -> dict[str, Any]:
        """Returns the part of `metrics.json` on the cost, as JSON types.

        Args:
            policy: Size of the policy; None if it is not known.
            value_model: Size of the value model; None if it is not known, or there was none.
        """
        wall = [seconds for seconds, _ in self.sessions.values()]
        busy = [seconds for _, seconds in self.sessions.values()]
        wall_seconds = None if None in wall else sum(s for s in wall if s is not None)
        busy_seconds = None if None in busy else sum(s for s in busy if s is not None)
        policy_flops = forward_flops(policy, self.tokens_generated, self.contexts_generated)
        value_flops = forward_flops(value_model, self.tokens_scored, self.contexts_scored)
        return {
            "tokens_generated": self.tokens_generated,
            "contexts_generated": self.contexts_generated,
            "tokens_scored": self.tokens_scored,
            "contexts_scored": self.contexts_scored,
            "tokens_cached": self.tokens_cached,
            "policy_tokens_cached": self.policy_tokens_cached,
            "policy_tokens_prefilled": self.policy_tokens_prefilled,
            "tokens_wasted": self.tokens_wasted,
            "blocks_cancelled": self.blocks_cancelled,
            "policy_flops": policy_flops,
            "value_model_flops": value_flops,
            "policy_size": asdict(policy) if policy else None,
            "value_model_size": asdict(value_model) if value_model else None,
            "wall_seconds": wall_seconds,
            "engine_busy_share": (
                busy_seconds / wall_seconds if wall_seconds and busy_seconds is not None else None
            ),
            "sessions": [
                {"wall_seconds": wall, "engine_busy_seconds": busy}
                for wall, busy in self.sessions.values()
            ],
            "definitions": DEFINITIONS,
        }


def forward_flops(size: ModelSize | None, tokens: int | None, contexts: int | None) -> float | None:
    """Returns the FLOPs of a model for some tokens; None where they are not known.

    Args:
        size: The model.
        tokens: Tokens that it computes.
        contexts: Tokens that each of them attends to, itself included, summed.
    """
    if tokens == 0:
        return 0.0
    if size is None or tokens is None or contexts is None:
        return None
    return size.forward_flops(tokens, contexts)
