"""What every generation engine gives: blocks of tokens that continue a path."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from run_lib.commands import InputError, RunStopped

FinishReason = Literal["stop", "step", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, the same for all requests of a run."""

    temperature: float = 0.6
    """Softmax temperature; 0 decodes greedily."""
    top_p: float = 0.95
    """Nucleus mass kept, in (0, 1]."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if not 0 <= self.temperature < float("inf"):
            raise InputError(
                f"--temperature must not be negative, and finite, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p must be in (0, 1], got {self.top_p}")


@dataclass(frozen=True)
class Expansion:
    """A request to extend one path by `n` blocks.

    Attributes:
        path_id: Names the path in the matching `Strategy.tell`; unique within a search.
        prefix_ids: Token ids of prompt and response so far, at least one.
        n: Blocks to sample.
        max_new_tokens: Length limit of each block, in tokens.
        stop_token_ids: A block ends after any of these; that token is part of the block.
        seed: Seed of these samples. The random numbers of sample `i` depend on `(seed, i)` alone,
            not on what else the engine works on; its tokens then do, up to rounding.
        logprobs: Whether the blocks shall have log-probabilities.
        greedy: Whether the blocks are decoded greedily, whatever the sampling of the run.
        confidence_top_k: Most likely tokens whose log-probabilities make the confidence of a token;
            0 if the blocks need none.
    """

    path_id: int
    prefix_ids: list[int]
    n: int
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int
    logprobs: bool = False
    greedy: bool = False
    confidence_top_k: int = 0


@dataclass(frozen=True)
class Block:
    """The tokens of one sample of an expansion.

    Attributes:
        token_ids: New tokens only, the matched stop token included.
        finish_reason: `"stop"` for a stop token, `"step"` for the delimiter of a step (of
            `StepEngine` only), `"length"` for the length limit.
        logprobs: Log-probability of each token at the temperature of the sampling, before top-p;
            greedy decoding has that of temperature 1. None if it was not asked for.
        confidences: Of each token, minus the mean log-probability of the `confidence_top_k` most
            likely tokens at its place, at temperature 1 whatever the sampling. None if they were
            not asked for.
        certainties: Self-certainty of each token, see `search_lib.confidence`; with `confidences`.
        prefix_cached: Tokens of the prefix that were not computed for this sample: their states
            were there. None if that is not known. Blocks that differ in it alone are equal, since
            it depends on what else the engine has worked on.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float] | None = None
    confidences: list[float] | None = None
    certainties: list[float] | None = None
    prefix_cached: int | None = field(default=None, compare=False)


class EngineUnavailable(RunStopped):
    """The service behind an engine stays away, after the engine's own retries.

    The message names its address. The request can be made again when the service is back.
    """


class BadReply(RuntimeError):
    """A server's reply does not fit the request; the message holds the reply."""


class Engine(Protocol):
    """A source of blocks. Safe to call from many searches at once.

    A call that is cancelled is given up: what it occupies, in a queue or on a server, is freed.
    """

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the `expansion.n` blocks that continue a path."""
        ...

    async def close(self) -> None:
        """Frees the engine's workers. Requests still waiting fail."""
        ...
