"""Measures a search while it runs: tokens, contexts and time."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block
from search_lib.results.cost import SearchCost


def context_sum(start: int, count: int) -> int:
    """Returns the tokens that `count` tokens behind `start` others attend to, each itself, too."""
    return count * start + count * (count + 1) // 2


class SearchMeter:
    """Adds up the tokens and contexts of one search.

    Args:
        clock: Clock of the session.
    """

    def __init__(self, clock: "SessionClock"):
        self._clock = clock
        self._started = time.monotonic()
        self._tokens_generated = self._contexts_generated = 0
        self._tokens_scored: int | None = 0
        self._contexts_scored = 0
        self._tokens_cached = 0
        self._prefix_tokens = self._prefix_tokens_cached = 0
        self._knows_prefixes = True
        self._tokens_wasted = self._blocks_cancelled = 0

    def add(self, prefix_length: int, blocks: Sequence[Block], scores: Scores | None) -> None:
        """Counts the blocks of one expansion and their scoring; None if nothing scored them."""
        lengths = [len(block.token_ids) for block in blocks]
        contexts = sum(context_sum(prefix_length, length) for length in lengths)
        self._tokens_generated += sum(lengths)
        self._contexts_generated += contexts
        self._prefix_tokens += prefix_length * len(blocks)
        cached = [block.prefix_cached for block in blocks if block.prefix_cached is not None]
        self._prefix_tokens_cached += sum(cached)
        self._knows_prefixes &= len(cached) == len(blocks)
        if scores is None:
            return
        if scores.tokens_cached is None or self._tokens_scored is None:
            self._tokens_scored = None
            return
        self._tokens_cached += scores.tokens_cached
        if scores.work is not None:
            self._tokens_scored += scores.work.tokens
            self._contexts_scored += scores.work.contexts
            return
        # A cache lacks the end of a prefix, whichever of the blocks it was computed for.
        again = prefix_length * len(blocks) - scores.tokens_cached
        whole, part = divmod(max(again, 0), prefix_length)
        contexts += whole * context_sum(0, prefix_length) + context_sum(prefix_length - part, part)
        self._tokens_scored += sum(lengths) + again
        self._contexts_scored += contexts

    def add_waste(self, num_blocks: int, blocks: Sequence[Block] | None) -> None:
        """Counts blocks that were sent ahead for nothing; None if they had not ended yet."""
        if blocks is None:
            self._blocks_cancelled += num_blocks
        else:
            self._tokens_wasted += sum(len(block.token_ids) for block in blocks)

    def cost(self) -> SearchCost:
        """Returns the cost so far."""
        known = self._tokens_scored is not None
        prefilled = self._prefix_tokens - self._prefix_tokens_cached
        return SearchCost(
            tokens_generated=self._tokens_generated,
            seconds=time.monotonic() - self._started,
            contexts_generated=self._contexts_generated,
            tokens_scored=self._tokens_scored,
            contexts_scored=self._contexts_scored if known else None,
            tokens_cached=self._tokens_cached if known else None,
            tokens_wasted=self._tokens_wasted,
            blocks_cancelled=self._blocks_cancelled,
            session=self._clock.session,
            session_seconds=self._clock.seconds,
            session_busy_seconds=self._clock.busy_seconds,
            policy_tokens_cached=self._prefix_tokens_cached if self._knows_prefixes else None,
            policy_tokens_prefilled=prefilled if self._knows_prefixes else None,
        )


class SessionClock:
    """Wall time of one run of the command, and how much of it the engine had a request.

    Attributes:
        session: A name that no other session has.
    """

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        self._started = time.monotonic()
        self._requests = 0
        self._busy_since = 0.0
        self._busy_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._started

    @property
    def busy_seconds(self) -> float:
        """Part of `seconds` within at least one `request`."""
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
