r"""Answer grading: the boxed answer of a response, and whether it equals the reference.

Answers are text that a model wrote, so the check itself can hang, run out of memory or crash.
`Grader` decides what has a normal form (`search_lib.grading.forms`) in this process and sends the
rest to worker processes, which it kills when they overrun:

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import IO, Self, cast

from run_lib.children import child_environment
from search_lib.grading.answers import Comparison, parse_integer
from search_lib.grading.forms import has_words, read, same
from search_lib.grading.worker import FINE_LINE, READY_LINE

MAX_ANSWER_CHARS = 2_000
"""Strings longer than this, in characters, are never checked: only an identical one is equal."""

_CACHE_REQUESTS = 100_000
_SLOW_SHARE = 0.05  # of the time limit; then another worker takes the next request
_MAX_HELPERS = 8  # beside the workers asked for
_LOW_PRIORITY = 15
_START_LIMIT_S = 120.0  # a first import of sympy from a cold network disk takes tens of seconds

_NEEDLESS_SPACE = re.compile(r"(?<![A-Za-z0-9\\,])\s+|(?<!\\)\s+(?![A-Za-z0-9])")

_Request = tuple[str, ...]  # a pair to compare, in sorted order, or one answer to read


@dataclass
class GradingStatistics:
    """Counts of the pairs and answers given to a `Grader`, by the way each was decided.

    Attributes:
        checked: Sent to a worker; includes `timed_out` and `crashed`.
        from_cache: Seen before, in an earlier call or in the same one.
        fast_path: Decided without a worker: by normal forms, or identical, empty or overlong.
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
        num_workers: Most worker processes at a time; up to 8 more help out while some are slow.
        time_limit_s: Wall-clock seconds for one request. A pair that needs more is called
            different, an answer unreadable.
        memory_limit_mb: Address space of one worker, in MiB; it needs about 70 to start. A check
            that runs out of memory calls the pair different. It is not counted as crashed, because
            math-verify catches the error and the worker lives on.
        comparison: How answers are compared.

    Raises:
        ValueError: If an argument is not positive, or the time limit is infinite.
    """

    def __init__(
        self,
        num_workers: int = 1,
        time_limit_s: float = 5.0,
        memory_limit_mb: int = 2048,
        comparison: Comparison = "strict",
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
        self._comparison = comparison
        self._workers: list[_Worker] = []
        self._cache: OrderedDict[_Request, bool] = OrderedDict()
        self._endless: set[str] = set()  # strings that cannot be read within the time limit
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

        Such an answer has a normal form, or is mathematics that math-verify parses and can compare
        with a plain expression within the limits. Words count, because they can differ in case; an
        empty or overlong string does not.

        Raises:
            RuntimeError: As `equivalent` does.
        """
        return self._decide([(answer.strip(),) for answer in answers])

    def _decide(self, requests: Sequence[_Request]) -> list[bool]:
        """Decides requests of stripped strings; equal ones are decided once."""
        shortcut = (
            _decide_without_worker if self._comparison == "strict" else _decide_without_reading
        )
        with self._lock:
            if self._closed:
                raise RuntimeError("the grader is closed")
            verdicts = [False] * len(requests)
            unknown: dict[_Request, list[int]] = {}
            for position, request in enumerate(requests):
                quick = shortcut(*request)
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
            for request, verdict in new_verdicts.items():
                if verdict is None:
                    continue
                self._cache[request] = verdict
                if len(self._cache) > _CACHE_REQUESTS:
                    self._cache.popitem(last=False)
                for position in unknown[request]:
                    verdicts[position] = verdict
            return verdicts

    def _check(self, requests: list[_Request]) -> list[bool | None]:
        """Returns the workers' verdicts on requests, in order; None where the worker died."""
        verdicts: dict[int, bool | None] = {}
        todo = deque(range(len(requests)))
        try:
            while len(verdicts) < len(requests):
                self._hand_out(requests, todo)
                for worker in self._wait(bool(todo)):
                    if not worker.ready:
                        self._welcome(worker)
                    elif worker.task is not None and (line := worker.verdict()) != "":
                        verdicts[worker.task] = self._read_verdict(
                            worker, line, requests[worker.task]
                        )
                        worker.task = None
        finally:
            # After an exception, such as Ctrl-C, some are busy. The next call would take their
            # replies for those to its own requests. Those beyond the number asked for helped out.
            extra = self._workers[self._num_workers :]
            for worker in list(self._workers):
                if worker.task is not None or worker in extra:
                    self._workers.remove(worker)
                    worker.stop()
        return [verdicts[index] for index in range(len(requests))]

    def _hand_out(self, requests: list[_Request], todo: deque[int]) -> None:
        """Gives requests to the idle workers and starts workers for the remaining requests.

        A worker that is slow doesn't count: answers that hang wait for their time limit together.
        """
        for worker in list(self._workers):
            if todo and worker.ready and worker.task is None:
                worker.task = todo.popleft()
                if not worker.send(requests[worker.task], self._time_limit_s):
                    # It died idle, which says nothing about the request.
                    todo.appendleft(worker.task)
                    self._workers.remove(worker)
                    worker.stop()
        starting = sum(not worker.ready for worker in self._workers)
        slow = [worker for worker in self._workers if worker.slow_at <= time.monotonic()]
        for worker in slow:
            worker.give_way()
        # Where one hangs, others may: two start for each, as starting takes time.
        counted = len(self._workers) - min(2 * len(slow), _MAX_HELPERS)
        for _ in range(min(self._num_workers - counted, len(todo) - starting)):
            self._workers.append(
                _Worker(self._time_limit_s, self._memory_limit_mb, self._comparison)
            )

    def _wait(self, more: bool) -> list["_Worker"]:
        """Waits for lines, deadlines and, if there are more requests, a worker that gets slow."""
        awaited = [
            worker for worker in self._workers if worker.task is not None or not worker.ready
        ]
        now = time.monotonic()
        moments = [worker.deadline for worker in awaited]
        if more:
            moments += [worker.slow_at for worker in awaited if worker.slow_at > now]
        with selectors.DefaultSelector() as selector:
            for worker in awaited:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            events = selector.select(max(0.0, min(moments) - now))
        if events:
            for key, _ in events:
                key.data.receive()
            return [key.data for key, _ in events]
        now = time.monotonic()
        return [worker for worker in awaited if worker.deadline <= now]

    def _welcome(self, worker: "_Worker") -> None:
        """Takes the first line of a worker that was starting.

        Raises:
            RuntimeError: If it died, or the line did not come in time.
        """
        if worker.received != READY_LINE:
            self._workers.remove(worker)
            raise RuntimeError(f"a grading worker did not start: {worker.stop()}")
        worker.ready = True

    def _read_verdict(self, worker: "_Worker", line: str | None, request: _Request) -> bool | None:
        """Reads a busy worker's verdict; removes the worker if it died or is overdue."""
        if line is not None:
            worker.slow_at = math.inf
            return bool(json.loads(line))
        self._workers.remove(worker)
        worker.stop()
        # Its own alarm comes first if this process was suspended meanwhile.
        if not worker.died or worker.process.returncode == -signal.SIGALRM:
            self.statistics.timed_out += 1
            # An answer that never ends would cost the time limit again with every string that it
            # is compared with.
            self._endless.update(request[worker.num_fine : worker.num_fine + 1])
            return False
        self.statistics.crashed += 1
        return None


class _Worker:
    """One worker process and its state.

    Attributes:
        ready: Whether it has imported what it needs.
        task: Index of the request it is checking; None when idle or starting.
        deadline: When to stop waiting for its verdict, on the clock of `time.monotonic`.
        slow_at: When to let another worker begin in its place; never while it isn't busy.
        replies: Its stdout.
        received: Its output since the last request.
        died: Whether its stdout has ended.
    """

    def __init__(self, time_limit_s: float, memory_limit_mb: int, comparison: Comparison) -> None:
        # A plain subprocess, not multiprocessing: that would import the caller's main module in the
        # child, and with it torch. -P keeps the modules of the current folder from shadowing ours.
        # The new session keeps Ctrl-C from the worker: this process decides when it ends.
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "search_lib.grading.worker"),
                *(str(memory_limit_mb), str(time_limit_s), comparison),
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
        self.slow_at = math.inf
        self.received = b""
        self.died = False

    @property
    def num_fine(self) -> int:
        """Number of answers of the request that it could read alone."""
        return self.received.count(FINE_LINE)

    def receive(self) -> None:
        """Reads its output, of which there must be some."""
        # A few short lines, which a pipe carries whole.
        text = os.read(self.replies.fileno(), 4096)
        self.received += text
        self.died = not text

    def verdict(self) -> str | None:
        """Returns the line with the verdict; "" if there is none yet, None if it comes no more."""
        line = self.received.replace(FINE_LINE, b"").decode()
        if line.endswith("\n"):
            return line
        return None if self.died or self.deadline <= time.monotonic() else ""

    def give_way(self) -> None:
        """Lowers its priority: others shall not be late because of it."""
        with contextlib.suppress(OSError):  # it is gone
            os.setpriority(os.PRIO_PROCESS, self.process.pid, _LOW_PRIORITY)

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
        self.received = b""
        self.deadline = time.monotonic() + time_limit_s
        self.slow_at = time.monotonic() + _SLOW_SHARE * time_limit_s
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
    """Decides a request of stripped strings by normal forms; returns None where they can't."""
    if not text or other == "":
        return False
    if other is None:
        return _is_readable(text)
    if text == other or _squeeze(text) == _squeeze(other):
        return True
    left, right = parse_integer(text), parse_integer(other)
    if left is not None and right is not None:  # however long
        return left == right
    if max(len(text), len(other)) > MAX_ANSWER_CHARS:
        return False
    forms = (read(text), read(other))
    if forms[0] is not None and forms[1] is not None:
        return same(forms[0], forms[1])
    # What words mean, math-verify doesn't know.
    if any(
        form.is_words if form else has_words(side)
        for form, side in zip(forms, (text, other), strict=True)
    ):
        return False
    return None


def _decide_without_reading(text: str, other: str | None = None) -> bool | None:
    """Decides what needs no mathematics: identical, empty and overlong strings."""
    if not text or other == "":
        return False
    if text == other:
        return True
    return False if max(len(text), len(other or "")) > MAX_ANSWER_CHARS else None


def _is_readable(text: str) -> bool | None:
    if parse_integer(text) is not None:
        return True
    if len(text) > MAX_ANSWER_CHARS:
        return False
    if read(text) is not None:
        return True
    return False if has_words(text) else None


def _squeeze(text: str) -> str:
    """Returns a text without the spaces that LaTeX doesn't show: all but those between letters.

    One behind a comma stays, because `1,234` is a number and `1, 234` are two.
    """
    return _NEEDLESS_SPACE.sub("", text)


def _worker_environment() -> dict[str, str]:
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    # sympy's order of terms follows hashes, and with it, now and then, time and verdict.
    return child_environment(PYTHONHASHSEED="0", **threads)
