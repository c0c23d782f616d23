"""What every generation engine gives: blocks of tokens that continue a prefix."""

from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are drawn.

    Args:
        temperature: softmax temperature; 0 decodes greedily.
        top_p: nucleus mass kept, in (0, 1].
        max_new_tokens: length limit of a block, in tokens.
        stop_token_ids: a block ends after any of these; that token is part of the block.
        seed: of this request. The random numbers of sample ``i`` depend on ``(seed, i)`` alone, not
            on what else the engine works on; its tokens then do, up to rounding.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Block:
    """The tokens of one expansion.

    Args:
        token_ids: new tokens only, the matched stop token included.
        finish_reason: ``"stop"`` for a stop token, ``"length"`` for the length limit.
    """

    token_ids: list[int]
    finish_reason: FinishReason


class EngineUnavailable(ConnectionError):
    """The service behind an engine stays away, after the engine's own retries.

    The message names its address. The request can be made again when the service is back.
    """


class Engine(Protocol):
    """A source of blocks. Safe to call from many searches at once."""

    async def generate(self, prefix_ids: list[int], n: int, sampling: Sampling) -> list[Block]:
        """Samples ``n`` blocks that continue ``prefix_ids``."""
        ...

    async def close(self) -> None:
        """Frees the engine's workers. Requests still waiting fail."""
        ...
