r"""Worker process of `search_lib.grading.grader`: reads and compares answers with math-verify.

Started as `python -m search_lib.grading.worker MEMORY_LIMIT_MB TIME_LIMIT_S COMPARISON`. It writes
`ready` to stdout, then reads one JSON list a line from stdin and writes `true` or `false` a line,
until stdin ends. `[reference, answer]` asks whether the two are equal, `[answer]` whether it can
be read. Before the verdict on two it writes `fine` for each of them that it could read alone: the
one after the last `fine` is at fault if the worker has to be killed.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from search_lib.grading.published import load_published

READY_LINE = b"ready\n"
FINE_LINE = b"fine\n"

_DIFFERENT = 1e-9
"""Relative; math-verify takes numbers for equal that differ after six decimals."""

_ALARM_GRACE_S = 1.0
_FINE_ANSWERS = 10_000
_PLAIN = "x+1"  # every answer that can be read is compared with this at once


class ReadAnswer(NamedTuple):
    """An answer as math-verify reads it.

    Attributes:
        parts: Objects of sympy, and texts as a last resort.
        is_expression: Whether it is a single expression, and no equation, set or text.
        number: Its value, if it is a single number.
        letters: Names of its variables.
    """

    parts: list[Any]
    is_expression: bool
    number: complex | None
    letters: frozenset[str]


def load_check(comparison: str = "strict") -> Callable[..., bool]:
    """Imports math-verify and returns the check of two answers, or of one.

    Given two answers, the check returns whether they are equal. Their order does not matter, and
    answers that math-verify cannot read or compare are not equal. Given one, it returns whether
    math-verify reads it as more than text and can compare it. The check has no limits of its own.

    Args:
        comparison: How answers are read and compared: `strict` or `published`.
    """
    from math_verify import verify

    parts_of, equal = load_strict() if comparison == "strict" else load_published()

    def check(answer: str, other: str | None = None) -> bool:
        try:
            if other is not None:
                return equal(answer, other)
            parts = parts_of(answer)
            # Not for the verdict: an answer that parses may still take for ever to compare.
            verify(parts_of(_PLAIN), parts, timeout_seconds=None)
            return not all(isinstance(part, str) for part in parts)
        except Exception:
            return False

    return check


def load_strict() -> tuple[Callable[[str], list[Any]], Callable[[str, str], bool]]:
    """Imports math-verify and returns the reading of an answer, and the check of two."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Expr, UnevaluatedExpr
    from sympy.logic.boolalg import Boolean

    # Only the whole answer counts. By default math-verify goes on to look for "answer is ...", for
    # $...$ and for plain numbers inside an answer that it cannot parse, so "foo^ 7 bar_" equals 7;
    # and ExprExtractionConfig, which finds the numbers, calls eval on them. Units are ours to know:
    # math-verify takes letters for units, and drops all that follows the first \\text.
    configuration = (
        LatexExtractionConfig(
            boxed_match_priority=0,
            try_extract_without_anchor=False,
            normalization_config=NormalizationConfig(
                basic_latex=True,
                units=False,
                malformed_operators=True,
                nits=True,
                boxed="all",
                equations=False,
            ),
        ),
    )

    @lru_cache(maxsize=256)
    def read_answer(text: str) -> ReadAnswer:
        # math-verify's own limits need SIGALRM, which is the guard's, and cannot stop C code.
        parts = parse(
            f"\\boxed{{{text}}}",
            configuration,
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        read = [part for part in parts if not isinstance(part, str)]
        is_expression = len(read) == 1 and isinstance(read[0], Expr)
        number = None
        # 50% equals both 50 and 0.5; it is marked by what is left unevaluated.
        if is_expression and read[0].is_number and not read[0].has(UnevaluatedExpr):
            # It may be out of the range of floats, or have no value.
            with contextlib.suppress(OverflowError, TypeError, ValueError):
                number = complex(read[0].evalf(15))
        letters = frozenset(
            str(symbol) for part in read for symbol in getattr(part, "free_symbols", ())
        )
        return ReadAnswer(parts, is_expression, number, letters)

    def equal(reference: str, answer: str) -> bool:
        left, right = read_answer(reference), read_answer(answer)
        # math-verify finds an equation equal to one of its sides, and leftover texts to each other.
        if left.is_expression != right.is_expression or left.letters != right.letters:
            return False
        # Without letters an equation is true or false, and math-verify takes all false ones, such
        # as \max(1,2)=3, for equal.
        if not left.letters and any(isinstance(part, Boolean) for part in left.parts + right.parts):
            return False
        if left.number is not None and right.number is not None:
            # Also saves the simplification of their difference, which takes most of the time.
            scale = max(abs(left.number), abs(right.number))
            if abs(left.number - right.number) > _DIFFERENT * scale:
                return False
        return verify(left.parts, right.parts, timeout_seconds=None) or (
            not left.is_expression and verify(right.parts, left.parts, timeout_seconds=None)
        )

    return lambda text: read_answer(text).parts, equal


def main() -> None:
    """Serves requests from stdin until it ends."""
    memory_limit_mb, time_limit_s, comparison = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

    # Libraries may print, or read; the protocol keeps the only descriptors of the two pipes.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)

    _limit_memory(memory_limit_mb << 20)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])

    logging.disable(logging.CRITICAL)  # math-verify warns that its time limits are off
    check = load_check(comparison)
    # Builds parser tables, which the first request should not pay for, and catches a memory limit
    # that lets the imports through and then makes every check fail.
    if not check("x+x", "2x"):
        sys.exit(f"math-verify does not find x+x equal to 2x within {memory_limit_mb} MiB")
    replies.write(READY_LINE)

    # Nobody reads stderr from here on, and a full pipe would block the process.
    os.dup2(null, 1)
    os.dup2(null, 2)
    fine: set[str] = set()
    for line in requests:
        if len(fine) > _FINE_ANSWERS:
            fine.clear()
        answers = json.loads(line)
        # The parent kills a worker that is late. If the parent itself was killed, a busy worker
        # does not see stdin end; the alarm, whose default action is to kill, then ends it, in the
        # middle of C code too. (PR_SET_PDEATHSIG would fire when the *thread* that started the
        # worker ends; RLIMIT_CPU counts over the whole life of the worker.)
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + _ALARM_GRACE_S)
        if len(answers) > 1:
            for answer in answers:
                if answer not in fine:
                    check(answer)
                    fine.add(answer)
                replies.write(FINE_LINE)
        verdict = check(*answers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(verdict).encode() + b"\n")


def _limit_memory(num_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        num_bytes = min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


if __name__ == "__main__":
    main()
