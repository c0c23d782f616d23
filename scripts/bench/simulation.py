"""A generator and a value model on paper, under a clock that jumps instead of waiting.

The search itself is real: `search_lib.runner` and the strategies run as they are, in an event loop
whose time goes straight to the next event.

The generator is a continuous-batching server. A decoding step of `b` sequences takes
`step_seconds + b * row_seconds` and gives each of them a token; a sequence that has ended, or whose
request was cancelled, makes room at once; those beyond `max_rows` wait, the most urgent first and
then in order of arrival. Prefill is free. The value model reads `tokens_per_second` new tokens, one
request after the other, on a device of its own; prefixes are in its cache. The logit of the value
walks at random along a path: its steps are normal, with a standard deviation that is assumed.
"""

import asyncio
import heapq
import math
import selectors
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block, Expansion, Sampling
from search_lib.urgency import Urgency, current_urgency

STOP_ID = 0

SERVER_1_5B, SERVER_8B = (4e-3, 1e-4, 256), (7e-3, 4e-5, 2048)
"""Seconds of a decoding step without sequences, seconds that each adds, and sequences at once:
arithmetic for models on an H100, see `scheduling.py` and `trees.py`."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps: when nothing is ready, its clock jumps to the next timer.

    Attributes:
        now: Seconds since its start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Returns the virtual time."""
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise RuntimeError("all tasks wait, and no timer will ever wake one")
        # The loop calls nothing whose time is now unless it is past by a nanosecond, which late in
        # a long run is less than the clock can tell apart.
        self._loop.now = math.nextafter(self._loop.now + max(timeout, 0.0), math.inf)
        return super().select(0)


@dataclass(frozen=True)
class Lengths:
    """Lengths of responses: log-normal, cut at the search's limit.

    Attributes:
        median: Median of all responses, in tokens.
        between: Standard deviation of the logarithm of the problems' medians.
        within: Standard deviation of the logarithm of the lengths of one problem.
        seed: Seed of the problems' medians.
    """

    median: float
    between: float
    within: float
    seed: int = 0

    def of_problem(self, problem: int) -> NormalDist:
        """Returns the distribution of the logarithm of a problem's lengths."""
        offset = np.random.default_rng((self.seed, problem)).standard_normal()
        return NormalDist(math.log(self.median) + self.between * offset, self.within)

    def mean(self, limit: int) -> float:
        """Returns the mean length of responses that end at a limit at the latest."""
        everything = math.hypot(self.between, self.within)
        standard = NormalDist()
        at = (math.log(limit) - math.log(self.median)) / everything
        below = self.median * math.exp(everything**2 / 2) * standard.cdf(at - everything)
        return below + limit * (1 - standard.cdf(at))


def draw_length(log_length: NormalDist, beyond: int, uniform: float) -> int:
    """Draws the length of a response that is known to be longer than `beyond`."""
    least = log_length.cdf(math.log(beyond)) if beyond else 0.0
    share = min(least + (1 - least) * uniform, 1 - 1e-12)
    return max(math.ceil(math.exp(log_length.inv_cdf(share))), beyond + 1)


@dataclass
class _Request:
    blocks: list[Block]
    future: asyncio.Future[list[Block]]
    urgency: Urgency
    number: int
    waiting: list[int]
    running: int = 0


@dataclass(order=True)
class _Row:
    end: float
    number: int
    request: _Request = field(compare=False)


class SimulatedGenerator:
    """A continuous-batching server (see the module) as an `Engine`.

    The first token of a prompt names the problem. The length of a response depends on problem and
    seed alone, not on the other sequences.

    Args:
        lengths: Lengths of responses.
        prompt_tokens: Tokens of every prompt.
        step_seconds: Seconds of a decoding step without sequences.
        row_seconds: Seconds that each running sequence adds.
        max_rows: Sequences that run at once.

    Attributes:
        busy_seconds: Seconds with a sequence running.
        tokens: Generated tokens, those of cancelled requests included.
    """

    def __init__(
        self,
        lengths: Lengths,
        prompt_tokens: int,
        step_seconds: float,
        row_seconds: float,
        max_rows: int,
    ):
        self.busy_seconds = 0.0
        self.tokens = 0
        self._lengths = lengths
        self._prompt_tokens = prompt_tokens
        self._step_seconds = step_seconds
        self._row_seconds = row_seconds
        self._max_rows = max_rows
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time()
        self._steps = 0.0
        self._requests = self._started = 0
        self._running: list[_Row] = []
        self._waiting: list[tuple[int, int, _Request]] = []  # a heap: (order, number, request)
        self._guessed: list[_Request] = []
        self._timer: asyncio.TimerHandle | None = None

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Returns the blocks at the time at which they would be there."""
        blocks = [self._draw(expansion, index) for index in range(expansion.n)]
        self._requests += 1
        lengths = [len(block.token_ids) for block in blocks]
        future: asyncio.Future[list[Block]] = self._loop.create_future()
        request = _Request(blocks, future, current_urgency(), self._requests, lengths)
        self._guessed.append(request)
        self._turn()
        try:
            return await future
        except asyncio.CancelledError:
            self._free(request)
            raise

    async def close(self) -> None:
        """Does nothing."""

    def _draw(self, expansion: Expansion, index: int) -> Block:
        seed = expansion.seed + index
        done = len(expansion.prefix_ids) - self._prompt_tokens
        uniform = np.random.default_rng(seed).random()
        log_length = self._lengths.of_problem(expansion.prefix_ids[0])
        length = draw_length(log_length, done, uniform) - done
        tokens = [1 + seed % 2**30] * min(length, expansion.max_new_tokens)
        if length > expansion.max_new_tokens:
            return Block(tokens, "length")
        tokens[-1] = STOP_ID
        return Block(tokens, "stop")

    def _turn(self) -> None:
        """Ends the finished sequences, starts the waiting ones and sets the next timer."""
        passed = self._loop.time() - self._time
        self._time += passed
        if self._running:
            self.busy_seconds += passed
            self._steps += passed / self._seconds_of_step
        while self._running and self._running[0].end <= self._steps + 1e-6:
            request = heapq.heappop(self._running).request
            request.running -= 1
            if not (request.running or request.waiting or request.future.done()):
                request.future.set_result(request.blocks)
        while len(self._running) < self._max_rows and (first := self._next()) is not None:
            length = first.waiting.pop(0)
            first.running += 1
            self._started += 1
            self.tokens += length
            heapq.heappush(self._running, _Row(self._steps + length, self._started, first))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            steps = self._running[0].end - self._steps
            self._timer = self._loop.call_later(steps * self._seconds_of_step, self._turn)

    def _next(self) -> _Request | None:
        """Returns the most urgent request with a sequence that waits; None if there is none."""
        self._guessed = [request for request in self._guessed if request.waiting]
        for request in self._guessed:
            if not request.urgency.guessed:
                heapq.heappush(self._waiting, (request.urgency.order, request.number, request))
        self._guessed = [request for request in self._guessed if request.urgency.guessed]
        while self._waiting and not self._waiting[0][-1].waiting:
            heapq.heappop(self._waiting)
        if self._waiting:
            return self._waiting[0][-1]
        by_rank = (((one.urgency.rank, one.number), one) for one in self._guessed)
        return min(by_rank, default=(None, None))[1]

    def _free(self, request: _Request) -> None:
        """Ends the sequences of a cancelled request."""
        self._turn()
        request.waiting.clear()
        rows = [row for row in self._running if row.request is request]
        self.tokens -= round(sum(row.end - self._steps for row in rows))
        self._running = [row for row in self._running if row.request is not request]
        heapq.heapify(self._running)
        self._turn()

    @property
    def _seconds_of_step(self) -> float:
        return self._step_seconds + self._row_seconds * len(self._running)


MEDIAN_STEP, STEP_DEVIATION, MAX_STEP = 60, 0.6, 1024
FEWEST_STEPS, MOST_STEPS = 3, 9
DELIMITER, RIGHT, WRONG = -1, -2, -3


class SimulatedSteps(SimulatedGenerator):
    """A server whose blocks are steps of reasoning; a delimiter, or an answer, ends each.

    Steps are log-normal with a median of 60 tokens and a standard deviation of the logarithm of
    0.6. A response has 3 to 9 of them, each number equally likely.
    """

    def __init__(self, prompt_tokens: int, step_seconds: float, row_seconds: float, max_rows: int):
        lengths = Lengths(MEDIAN_STEP, 0.0, STEP_DEVIATION)  # not used: steps are drawn here
        super().__init__(lengths, prompt_tokens, step_seconds, row_seconds, max_rows)

    def _draw(self, expansion: Expansion, index: int) -> Block:
        rng = np.random.default_rng((expansion.seed, index))
        drawn = round(MEDIAN_STEP * np.exp(STEP_DEVIATION * rng.standard_normal()))
        length = min(max(drawn, 2), expansion.max_new_tokens)
        tokens = [int(rng.integers(1, 2**30))] * length
        number = expansion.prefix_ids.count(DELIMITER) + 1
        if number >= FEWEST_STEPS and rng.random() < 1 / (MOST_STEPS + 1 - min(number, MOST_STEPS)):
            tokens[-2:] = [RIGHT if rng.random() < 0.5 else WRONG, STOP_ID]
            return Block(tokens, "stop")
        tokens[-1] = DELIMITER
        return Block(tokens, "step")


class SimulatedScorer:
    """A value model (see the module) as a `Scorer`; values depend on the blocks alone.

    Args:
        tokens_per_second: New tokens that it reads in a second.
        spread: Standard deviation of a step of the logit.
    """

    def __init__(self, tokens_per_second: float, spread: float):
        self._tokens_per_second = tokens_per_second
        self._spread = spread
        self._free_at = 0.0
        self._logits: dict[tuple[int, ...], float] = {}

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns the values at the time at which they would be there."""
        now = asyncio.get_running_loop().time()
        tokens = sum(len(block.token_ids) for block in blocks)
        self._free_at = max(self._free_at, now) + tokens / self._tokens_per_second
        await asyncio.sleep(self._free_at - now)
        values = [self._value(prefix_ids, block) for block in blocks]
        return Scores(values, tokens_cached=len(prefix_ids) * len(blocks))

    async def close(self) -> None:
        """Does nothing."""

    def _value(self, prefix_ids: list[int], block: Block) -> float:
        # The last tokens of a path and its length tell it from all others.
        before = self._logits.get((*prefix_ids[-3:], len(prefix_ids)), 0.0)
        uniform = (block.token_ids[0] * 2_654_435_761 % 2**32 + 0.5) / 2**32
        logit = before + self._spread * NormalDist().inv_cdf(uniform)
        path_end = (prefix_ids[-3:] + block.token_ids)[-3:]
        self._logits[*path_end, len(prefix_ids) + len(block.token_ids)] = logit
        return 1 / (1 + math.exp(-logit))
