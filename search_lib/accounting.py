"""What searches take: tokens and contexts of each, and the time of the run around them."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import Scores
from classifier_lib.throughput import ModelSize
from search_lib.engines.base import Block

DEFINITIONS = {
    "tokens_generated": "new tokens of all blocks, kept or not",
    "tokens_scored": "tokens that the value model computed: new ones (blocks, prompts), and again "
    "those that its cache had dropped",
    "tokens_cached": "tokens of the scored paths (prefix + block, each candidate's) that a cache "
    "gave; with tokens_scored, all that scoring every candidate alone would compute",
    "flops": "2 x N x tokens + 4 x layers x heads x head size x contexts. N: parameters but for "
    "embeddings, norms and biases; a language model's output matrix counts. Contexts: tokens that "
    "each of the tokens attends to, itself included, summed. policy_flops counts every generated "
    "token once, and no prompt or prefix; value_model_flops counts tokens_scored. Padding is left "
    "out",
    "wall_seconds": "of all sessions, each from its first search to its last record; sessions of "
    "several machines add up, too",
    "engine_busy_share": "share of wall_seconds in which the engine had a request, waiting ones "
    "included",
    "null": "not known: the scorer does not tell, or some records are of an earlier version",
}
"""What the numbers of ``metrics.json`` mean, by name."""


@dataclass(frozen=True)
class SearchCost:
    """What one search took, and how its session stood when it ended.

    What is None is not known: the scorer does not tell, or the record is of an earlier version.

    Args:
        tokens_generated: new tokens of all blocks, kept or not.
        seconds: from its first request to its last answer; other searches ran meanwhile.
        contexts_generated: tokens that each generated one attends to, itself included, summed.
        tokens_scored: tokens that the value model computed.
        contexts_scored: as ``contexts_generated``, of ``tokens_scored``.
        tokens_cached: tokens of all scored paths that a cache gave instead.
        session: names the run of the command that this search belongs to; a run that was
            killed and started again has several.
        session_seconds: wall time of the session up to this search's end.
        session_busy_seconds: of these, those with a request at the engine.
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


def context_sum(start: int, count: int) -> int:
    """Tokens that ``count`` tokens behind ``start`` others attend to, each itself included."""
    return count * start + count * (count + 1) // 2


class SearchMeter:
    """Adds up what the answers of one search took.

    Args:
        clock: of the session.
    """

    def __init__(self, clock: "SessionClock"):
        self._clock = clock
        self._started = time.monotonic()
        self._tokens_generated = self._contexts_generated = 0
        self._tokens_scored: int | None = 0
        self._contexts_scored = 0
        self._tokens_cached = 0

    def add(self, prefix_length: int, blocks: Sequence[Block], scores: Scores) -> None:
        """Counts the blocks of one expansion and their scoring."""
        lengths = [len(block.token_ids) for block in blocks]
        contexts = sum(context_sum(prefix_length, length) for length in lengths)
        self._tokens_generated += sum(lengths)
        self._contexts_generated += contexts
        if scores.tokens_cached is None or self._tokens_scored is None:
            self._tokens_scored = None
            return
        # What a cache lacks of a prefix is its end, whichever of the blocks it was computed for.
        again = prefix_length * len(blocks) - scores.tokens_cached
        whole, part = divmod(max(again, 0), prefix_length)
        contexts += whole * context_sum(0, prefix_length) + context_sum(prefix_length - part, part)
        self._tokens_scored += sum(lengths) + again
        self._contexts_scored += contexts
        self._tokens_cached += scores.tokens_cached

    def cost(self) -> SearchCost:
        """The cost so far."""
        known = self._tokens_scored is not None
        return SearchCost(
            tokens_generated=self._tokens_generated,
            seconds=time.monotonic() - self._started,
            contexts_generated=self._contexts_generated,
            tokens_scored=self._tokens_scored,
            contexts_scored=self._contexts_scored if known else None,
            tokens_cached=self._tokens_cached if known else None,
            session=self._clock.session,
            session_seconds=self._clock.seconds,
            session_busy_seconds=self._clock.busy_seconds,
        )


class SessionClock:
    """Wall time of one run of the command, and how much of it the engine had a request.

    Attributes:
        session: a name that no other session has.
    """

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        self._started = time.monotonic()
        self._requests = 0
        self._busy_since = 0.0
        self._busy_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Since the clock was made."""
        return time.monotonic() - self._started

    @property
    def busy_seconds(self) -> float:
        """Of ``seconds``, those within at least one ``request``."""
        current = time.monotonic() - self._busy_since if self._requests else 0.0
        return self._busy_seconds + current

    @contextmanager
    def request(self) -> Iterator[None]:
        """Spans one request to the engine; requests may overlap."""
        if not self._requests:
            self._busy_since = time.monotonic()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._busy_seconds += time.monotonic() - self._busy_since


@dataclass
class RunCost:
    """The costs of a run's searches, added up one by one; None where one of them is not known.

    Args:
        tokens_generated: see ``SearchCost``.
        contexts_generated: see ``SearchCost``.
        tokens_scored: see ``SearchCost``.
        contexts_scored: see ``SearchCost``.
        tokens_cached: see ``SearchCost``.
        sessions: (wall seconds, busy seconds) at the last record of each session; that of the
            name None stands for records of an earlier version, whose times are not known.
    """

    tokens_generated: int | None
    contexts_generated: int | None
    tokens_scored: int | None
    contexts_scored: int | None
    tokens_cached: int | None
    sessions: dict[str | None, tuple[float | None, float | None]]

    @classmethod
    def of(cls, costs: Iterable[SearchCost]) -> "RunCost":
        """The costs of all searches of a run, whatever sessions they ran in."""
        names = [field.name for field in fields(cls) if field.name != "sessions"]
        totals: dict[str, int | None] = dict.fromkeys(names, 0)
        sessions: dict[str | None, tuple[float | None, float | None]] = {}
        for cost in costs:
            for name in names:
                total, value = totals[name], getattr(cost, name)
                totals[name] = None if total is None or value is None else total + value
            last_seconds, _ = sessions.get(cost.session, (None, None))
            if (cost.session_seconds or 0.0) >= (last_seconds or 0.0):
                sessions[cost.session] = cost.session_seconds, cost.session_busy_seconds
        return cls(sessions=sessions, **totals)

    def document(self, policy: ModelSize | None, value_model: ModelSize | None) -> dict[str, Any]:
        """What ``metrics.json`` says of the cost, as JSON types.

        Args:
            policy: None if its size is not known.
            value_model: likewise.
        """
        wall = [seconds for seconds, _ in self.sessions.values()]
        busy = [seconds for _, seconds in self.sessions.values()]
        wall_seconds = None if None in wall else sum(s for s in wall if s is not None)
        busy_seconds = None if None in busy else sum(s for s in busy if s is not None)
        return {
            "tokens_generated": self.tokens_generated,
            "contexts_generated": self.contexts_generated,
            "tokens_scored": self.tokens_scored,
            "contexts_scored": self.contexts_scored,
            "tokens_cached": self.tokens_cached,
            "policy_flops": _flops(policy, self.tokens_generated, self.contexts_generated),
            "value_model_flops": _flops(value_model, self.tokens_scored, self.contexts_scored),
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


def model_size(model: str) -> ModelSize | None:
    """The size of the model in a folder or on the hub, from its config; None if it has none here.

    Args:
        model: a value model or a language model.
    """
    try:
        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            if Qwen2ForClassifier.__name__ in (config.architectures or []):
                return ModelSize.of(Qwen2ForClassifier(config))
            return ModelSize.of(AutoModelForCausalLM.from_config(config))
    except Exception:  # whatever an absent, damaged or foreign config comes up with
        return None


def _flops(size: ModelSize | None, tokens: int | None, contexts: int | None) -> float | None:
    if size is None or tokens is None or contexts is None:
        return None
    return size.forward_flops(tokens, contexts)
