r"""Answer grading: the boxed answer of a response, and whether it equals the reference.

Answers are text that a model wrote, so the check itself can hang, run out of memory or crash.
`Grader` decides plain cases (integers, identical strings) in this process and sends the others to
worker processes, which it kills when they overrun:

    with Grader(num_workers=2) as grader:
        grader.equivalent([("33", "033"), (r"\frac{1}{2}", "0.5")])  # [True, True]
        grader.readable([r"\frac{1}{2}", r"\frac{1}{^}"])  # [True, False]

This module imports neither math-verify nor sympy; only the workers do
(`search_lib.grading.worker`).
"""

import contextlib
import json
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from types import TracebackType
from typing import IO, Self, cast

from run_lib.children import child_environment
from search_lib.grading.answers import parse_rational
from search_lib.grading.latex_numbers import plain_value
from search_lib.grading.worker import CLEARLY_DIFFERENT, READY_LINE

MAX_ANSWER_CHARS = 2_000
"""Strings longer than this, in characters, are never checked: only an identical one is equal."""

_CACHE_REQUESTS = 100_000
_START_LIMIT_S = 120.0  # a first import of sympy from a cold network disk takes tens of seconds

_NEEDLESS_SPACE = re.compile(r"(?<![A-Za-z0-9\\])\s+|(?<!\\)\s+(?![A-Za-z0-9])")
_Request = tuple[str, ...]  # a pair to compare, in sorted order, or one answer to read


@dataclass
class GradingStatistics:
    """Counts of the pairs and answers given to a `Grader`, by the way each was decided.

    Attributes:
        checked: Sent to a worker; includes `timed_out` and `crashed`.
        from_cache: Seen before, in an earlier call or in the same one.
        fast_path: Decided without a worker: integers, identical, empty or overlong strings.
        timed_out: Called different, or unreadable, because the check took longer than the time
            limit.
        crashed: Called different, or unreadable, because the worker died during the check.
    """

    checked: int = 0
    from_cache: int = 0
    fast_path: int = 0
    timed_out: int = 0
    crashed: int = 0


class Grader:
    """Decides whether answers are equal to references, within limits of time and memory.

    Workers start when the first pair needs one and are replaced when they are killed or die. Calls
    from several threads take turns. Use it as a context manager, or call `close`.

    Args:
        num_workers: Most worker processes at a time.
        time_limit_s: Wall-clock seconds for one request. A pair that needs more is called
            different, an answer unreadable.
        memory_limit_mb: Address space of one worker, in MiB; it needs about 70 to start. A check
            that runs out of memory calls the pair different. It is not counted as crashed, because
            math-verify catches the error and the worker lives on.

    Raises:
        ValueError: If an argument is not positive, or the time limit is infinite.
    """

    def __init__(
        self, num_workers: int = 1, time_limit_s: float = 5.0, memory_limit_mb: int = 2048
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        if not 0 < time_limit_s < math.inf:
            raise ValueError(f"time_limit_s must be positive and finite, got {time_limit_s}")
        if memory_limit_mb < 1:
            raise ValueError(f"memory_limit_mb must be at least 1, got {memory_limit_mb}")
        self.statistics = GradingStatistics()
        self._num_workers = num_workers
        self._time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb
        self._workers: list[_Worker] = []
        self._cache: OrderedDict[_Request, bool] = OrderedDict()
        self._overdue: set[_Request] = set()  # requests of this call that timed out
        self._endless: set[str] = set()  # strings that cannot be read within the time limit
        self._fine: set[str] = set()  # strings that can
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are running now."""
        return tuple(worker.process.pid for worker in self._workers)

    def close(self) -> None:
        """Ends the workers. May be called again; `equivalent` and `readable` may not."""
        with self._lock:
            self._closed = True
            while self._workers:
                self._workers.pop().stop()

    def equivalent(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Returns for each (reference, answer) pair whether the two are equal.

        The order within a pair does not matter. A pair is checked once in the grader's life; only
        the verdict of a worker that died is not kept, because something outside may have ended it.

        Raises:
            RuntimeError: If the grader is closed, or a worker cannot start; the message then ends
                with the worker's output on stderr.
        """
        pairs = [(reference.strip(), answer.strip()) for reference, answer in pairs]
        return self._decide([(min(pair), max(pair)) for pair in pairs])

    def readable(self, answers: Sequence[str]) -> list[bool]:
        r"""Returns for each answer whether something other than the same text can be equal to it.

        Such an answer is an integer, or mathematics that math-verify parses and can compare with a
        plain expression within the limits. A bare word counts, because math-verify reads a product
        of letters; an empty or overlong string does not.

        Raises:
            RuntimeError: As `equivalent` does.
        """
        return self._decide([(answer.strip(),) for answer in answers])

    def _decide(self, requests: Sequence[_Request]) -> list[bool]:
        """Decides requests of stripped strings; equal ones are decided once."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the grader is closed")
            verdicts = [False] * len(requests)
            unknown: dict[_Request, list[int]] = {}
            for position, request in enumerate(requests):
                quick = _decide_without_worker(*request)
                if quick is not None:
                    self.statistics.fast_path += 1
                    verdicts[position] = quick
                elif not self._endless.isdisjoint(request):
                    self.statistics.from_cache += 1
                elif request in self._cache:
                    self.statistics.from_cache += 1
                    self._cache.move_to_end(request)
                    verdicts[position] = self._cache[request]
                elif request in unknown:
                    self.statistics.from_cache += 1
                    unknown[request].append(position)
                else:
                    self.statistics.checked += 1
                    unknown[request] = [position]
            new_verdicts = dict(zip(unknown, self._check(list(unknown)), strict=True))
            self._find_endless(unknown)
            for request, verdict in new_verdicts.items():
                if verdict is None:
                    continue
                self._cache[request] = verdict
                if len(self._cache) > _CACHE_REQUESTS:
                    self._cache.popitem(last=False)
                for position in unknown[request]:
                    verdicts[position] = verdict
            return verdicts

    def _find_endless(self, requests: Iterable[_Request]) -> None:
        """Finds the strings at fault for the time-outs among requests that were just checked.

        An answer that never ends would cost the time limit again with every string that it is
        compared with. So each side of an overdue pair is read once by itself.
        """
        if len(self._fine) > _CACHE_REQUESTS:
            self._fine.clear()  # at worst one of them is tried again
        overdue = [request for request in requests if request in self._overdue]
        self._fine.update(*(request for request in requests if request not in self._overdue))
        self._endless.update(*(request for request in overdue if len(request) == 1))
        for text in {text for pair in overdue for text in pair} - self._fine - self._endless:
            timed_out = self.statistics.timed_out
            self._check([(text,)])
            self.statistics.timed_out = timed_out  # that was no request of the caller's
            (self._endless if (text,) in self._overdue else self._fine).add(text)
        self._overdue.clear()

    def _check(self, requests: list[_Request]) -> list[bool | None]:
        """Returns the workers' verdicts on requests, in order; None where the worker died."""
        verdicts: dict[int, bool | None] = {}
        todo = deque(range(len(requests)))
        try:
            while len(verdicts) < len(requests):
                self._hand_out(requests, todo)
                for worker, reply in self._wait():
                    if not worker.ready:
                        if reply != READY_LINE:
                            self._workers.remove(worker)
                            raise RuntimeError(f"a grading worker did not start: {worker.stop()}")
                        worker.ready = True
                    elif worker.task is not None:
                        timed_out = self.statistics.timed_out
                        verdicts[worker.task] = self._read_verdict(worker, reply)
                        if self.statistics.timed_out > timed_out:
                            self._overdue.add(requests[worker.task])
                        worker.task = None
        finally:
            # After an exception, such as Ctrl-C, they are busy. The next call would take their
            # replies for those to its own requests.
            for worker in [worker for worker in self._workers if worker.task is not None]:
                self._workers.remove(worker)
                worker.stop()
        return [verdicts[index] for index in range(len(requests))]

    def _hand_out(self, requests: list[_Request], todo: deque[int]) -> None:
        """Gives requests to the idle workers and starts workers for the remaining requests."""
        for worker in list(self._workers):
            if todo and worker.ready and worker.task is None:
                worker.task = todo.popleft()
                if not worker.send(requests[worker.task], self._time_limit_s):
                    # It died idle, which says nothing about the request.
                    todo.appendleft(worker.task)
                    self._workers.remove(worker)
                    worker.stop()
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._num_workers - len(self._workers), len(todo) - starting)):
            self._workers.append(_Worker(self._time_limit_s, self._memory_limit_mb))

    def _wait(self) -> list[tuple["_Worker", bytes | None]]:
        """Waits for replies; returns b"" for a worker that died, None for one past its deadline."""
        awaited = [
            worker for worker in self._workers if worker.task is not None or not worker.ready
        ]
        with selectors.DefaultSelector() as selector:
            for worker in awaited:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            first_deadline = min(worker.deadline for worker in awaited)
            events = selector.select(max(0.0, first_deadline - time.monotonic()))
        if events:
            # A reply is one short line, which a pipe carries whole.
            return [(key.data, os.read(key.fd, 4096)) for key, _ in events]
        now = time.monotonic()
        return [(worker, None) for worker in awaited if worker.deadline <= now]

    def _read_verdict(self, worker: "_Worker", reply: bytes | None) -> bool | None:
        """Reads a busy worker's reply; removes the worker if it died or is overdue."""
        if reply:
            return bool(json.loads(reply))
        self._workers.remove(worker)
        worker.stop()
        # Its own alarm comes first if this process was suspended meanwhile.
        if reply is None or worker.process.returncode == -signal.SIGALRM:
            self.statistics.timed_out += 1
            return False
        self.statistics.crashed += 1
        return None


class _Worker:
    """One worker process and its state.

    Attributes:
        ready: Whether it has imported what it needs.
        task: Index of the request it is checking; None when idle or starting.
        deadline: Time to stop waiting for its next line, on the clock of `time.monotonic`.
        replies: Its stdout.
    """

    def __init__(self, time_limit_s: float, memory_limit_mb: int) -> None:
        # A plain subprocess, not multiprocessing: that would import the caller's main module in the
        # child, and with it torch. -P keeps the modules of the current folder from shadowing ours.
        # The new session keeps Ctrl-C from the worker: this process decides when it ends.
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "search_lib.grading.worker"),
                *(str(memory_limit_mb), str(time_limit_s)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_worker_environment(),
            start_new_session=True,
        )
        self.replies = cast(IO[bytes], self.process.stdout)
        self.ready = False
        self.task: int | None = None
        self.deadline = time.monotonic() + _START_LIMIT_S

    def send(self, request: _Request, time_limit_s: float) -> bool:
        """Sends a request and sets its deadline; returns False if the worker is dead."""
        requests = cast(IO[bytes], self.process.stdin)
        try:
            # Escaped to ASCII, so that lone surrogates survive. At most 48 kB, less than a pipe
            # holds, and the worker is reading.
            requests.write(json.dumps(request).encode("ascii") + b"\n")
            requests.flush()
        except BrokenPipeError:
            return False
        self.deadline = time.monotonic() + time_limit_s
        return True

    def stop(self) -> str:
        """Kills the process, waits for its end and returns its stderr if it was still starting."""
        self.process.kill()
        self.process.wait()
        errors = cast(IO[bytes], self.process.stderr)
        text = b"" if self.ready else os.read(errors.fileno(), 1 << 16)  # all that a pipe holds
        for pipe in (self.process.stdin, self.process.stdout, errors):
            with contextlib.suppress(BrokenPipeError):  # a request that was never read
                cast(IO[bytes], pipe).close()
        return text.decode(errors="replace").strip()


@lru_cache(maxsize=4096)  # the same answers recur
def _decide_without_worker(text: str, other: str | None = None) -> bool | None:
    """Decides a plain request of stripped strings; returns None if it needs a worker."""
    if not text or other == "":
        return False
    if text == other or (other is not None and _squeeze(text) == _squeeze(other)):
        return True
    left = parse_rational(text)
    if left is not None and other is None:
        return True
    right = None if other is None else parse_rational(other)
    if left is not None and right is not None:
        difference = abs(left - right)
        if not difference or left.denominator == right.denominator == 1:
            return not difference
        # Closer than that, math-verify says how a decimal is rounded.
        if difference > Fraction(CLEARLY_DIFFERENT) * max(abs(left), abs(right), Fraction(1)):
            return False
    if max(len(text), len(other or "")) > MAX_ANSWER_CHARS:
        return False
    if other is not None and _are_far_apart(text, other):
        return False
    return None


def _squeeze(text: str) -> str:
    """Returns a text without the spaces that LaTeX doesn't show: all but those between letters."""
    return _NEEDLESS_SPACE.sub("", text)


def _are_far_apart(text: str, other: str) -> bool:
    """Returns whether both are plain numbers, or points of such, that no rounding makes equal."""
    lefts, rights = _coordinates(text), _coordinates(other)
    if len(lefts) != len(rights):
        return False
    pairs = [
        (plain_value(left), plain_value(right)) for left, right in zip(lefts, rights, strict=True)
    ]
    return all(None not in pair for pair in pairs) and any(
        abs(left - right) > CLEARLY_DIFFERENT * max(abs(left), abs(right), 1.0)
        for left, right in pairs
        if left is not None and right is not None
    )


def _coordinates(text: str) -> list[str]:
    """Returns the coordinates of a point; for any other text, the whole of it."""
    text = text.strip("$").strip()
    if text.startswith("(") and text.endswith(")") and text.count("(") == text.count(")") == 1:
        return text[1:-1].split(",")
    return [text]


def _worker_environment() -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    # sympy's order of terms follows hashes, and with it, now and then, time and verdict.
    return child_environment(PYTHONHASHSEED="0", **threads)
