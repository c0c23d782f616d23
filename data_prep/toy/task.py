r"""A synthetic chain-of-thought task on which the whole method runs in minutes on a CPU.

A problem gives a start digit and 8 to 14 operations to follow modulo 10, such as
`start 3 +4 *7 -2`. A response writes one line for each operation and then the answer:

    3 +4 = 7 ok
    7 *7 = 9 ok
    9 -2 = 7 ok</think>\boxed{7}

A policy learns from the traces of a *noisy teacher*, whose faults make search with a value model
worth while:

* Most (digit, operation) pairs slip rarely, but three quarters of the products slip about every
  other time, and always to the same wrong digit. Wrong answers therefore agree with each other, so
  majority voting is misled, and greedy decoding repeats the slips.
* A wrong line usually ends in the hedge " hm" and a right one in " ok". The mark is the only
  visible trace of a slip, and a value model can learn it from outcomes alone.
* After a hedged line the teacher sometimes waits for ever. Such a response hits the length limit:
  class 2, unfinished.

Nothing is injected at inference: every fault that a search meets is the policy's own.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

MAX_RESPONSE_TOKENS = 96  # the longest finished trace has 14 * 6 + 5 = 89
MIN_OPERATIONS, MAX_OPERATIONS = 8, 14
PRODUCT_SHARE = 0.28  # of the operations of a problem; sums and differences share the rest

TEACHER_SEED = 7
EASY_SLIP_RATE = 0.015
HARD_PRODUCT_SHARE = 0.75
HARD_SLIP_RATES = (0.45, 0.75)  # mostly above one half, so greedy decoding slips there too
HEDGE_RATE_IF_WRONG, HEDGE_RATE_IF_RIGHT = 0.85, 0.08
LOOP_RATE = 0.02  # of the hedged lines; a trace has about two of those

NUM_HELD_OUT = 200
HELD_OUT_SEED = "toy task, held-out problems"

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"  # special tokens
THINK, END_THINK = "<think>", "</think>"
START, EQUALS, SURE, HEDGE, WAIT, BOXED = "start ", " = ", " ok", " hm", " wait", "\\boxed{"


class Operation(NamedTuple):
    """One step of a problem.

    Attributes:
        sign: `"+"`, `"-"` or `"*"`.
        operand: A number in 2..9.
    """

    sign: str
    operand: int

    def __str__(self) -> str:
        return f" {self.sign}{self.operand}"

    def apply(self, digit: int) -> int:
        """Returns the right result, modulo 10."""
        if self.sign == "+":
            return (digit + self.operand) % 10
        if self.sign == "-":
            return (digit - self.operand) % 10
        return digit * self.operand % 10


OPERATIONS = tuple(Operation(sign, operand) for sign in "+-*" for operand in range(2, 10))

# Symbols of more than one character. The others (digits, newline, closing brace) are single bytes,
# so that a byte-level tokenizer needs no help with them.
SYMBOLS = (
    *(THINK, END_THINK, START, EQUALS, SURE, HEDGE, WAIT, BOXED),
    *(str(operation) for operation in OPERATIONS),
)


@dataclass(frozen=True)
class ToyProblem:
    """A start digit and the operations to follow from it. `str(problem)` is the problem text."""

    start: int
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return f"{START}{self.start}{''.join(map(str, self.operations))}"

    @property
    def answer(self) -> int:
        """The digit that the operations lead to."""
        return reduce(lambda digit, operation: operation.apply(digit), self.operations, self.start)

    @property
    def solution(self) -> str:
        """The response without a slip, a hedge or special tokens."""
        digit = self.start
        lines = []
        for operation in self.operations:
            lines.append(trace_line(digit, operation, operation.apply(digit), SURE))
            digit = operation.apply(digit)
        return "".join(lines) + final_answer(digit)


def trace_line(digit: int, operation: Operation, result: int, mark: str) -> str:
    """Returns one line of a response, six tokens long. The mark is `SURE` or `HEDGE`."""
    return f"\n{digit}{operation}{EQUALS}{result}{mark}"


def final_answer(digit: int) -> str:
    """Returns the rest of a response behind its last line, without the end token."""
    return f"{END_THINK}{BOXED}{digit}}}"


def sample_problem(rng: random.Random) -> ToyProblem:
    """Draws a problem. It may be a held-out one; `training_problems` leaves those out."""
    start = rng.randrange(10)
    signs = [
        "*" if rng.random() < PRODUCT_SHARE else rng.choice("+-")
        for _ in range(rng.randint(MIN_OPERATIONS, MAX_OPERATIONS))
    ]
    return ToyProblem(start, tuple(Operation(sign, rng.randint(2, 9)) for sign in signs))


def held_out_problems() -> list[ToyProblem]:
    """Returns the 200 test problems, the same ones as in `test_problems.jsonl`."""
    rng = random.Random(HELD_OUT_SEED)
    return [sample_problem(rng) for _ in range(NUM_HELD_OUT)]


def training_problems(rng: random.Random) -> Iterator[ToyProblem]:
    """Yields problems for training and roll-outs without end, and none of the held-out ones."""
    held_out = frozenset(held_out_problems())
    while True:
        problem = sample_problem(rng)
        if problem not in held_out:
            yield problem


class Teacher:
    """Writes noisy solutions.

    Args:
        seed: Seed of the slip table: which products are hard, how often they slip and where to.

    Attributes:
        slip_rate: Probability of writing a wrong result, by (digit, operation).
        slip_to: The wrong digit written then, by (digit, operation); always the same.
    """

    def __init__(self, seed: int = TEACHER_SEED) -> None:
        rng = random.Random(seed)
        self.slip_rate: dict[tuple[int, Operation], float] = {}
        self.slip_to: dict[tuple[int, Operation], int] = {}
        for digit in range(10):
            for operation in OPERATIONS:
                hard = operation.sign == "*" and rng.random() < HARD_PRODUCT_SHARE
                rate = rng.uniform(*HARD_SLIP_RATES) if hard else EASY_SLIP_RATE
                wrong_digits = [d for d in range(10) if d != operation.apply(digit)]
                self.slip_rate[digit, operation] = rate
                self.slip_to[digit, operation] = rng.choice(wrong_digits)

    def trace(self, problem: ToyProblem, rng: random.Random) -> str:
        """Writes a response: the text behind `<think>`, up to and including the end token.

        A trace that falls into a loop has no end token and more tokens than `MAX_RESPONSE_TOKENS`;
        the reader cuts it there.
        """
        digit = problem.start
        lines = []
        for operation in problem.operations:
            slips = rng.random() < self.slip_rate[digit, operation]
            result = self.slip_to[digit, operation] if slips else operation.apply(digit)
            hedges = rng.random() < (HEDGE_RATE_IF_WRONG if slips else HEDGE_RATE_IF_RIGHT)
            lines.append(trace_line(digit, operation, result, HEDGE if hedges else SURE))
            if hedges and rng.random() < LOOP_RATE:
                return "".join(lines) + WAIT * MAX_RESPONSE_TOKENS
            digit = result
        return "".join(lines) + final_answer(digit) + END


def held_out_rows() -> list[dict[str, str]]:
    """Returns the rows of `test_problems.jsonl`: id, problem and answer."""
    return [
        {"id": f"toy-{number:03d}", "problem": str(problem), "answer": str(problem.answer)}
        for number, problem in enumerate(held_out_problems())
    ]


if __name__ == "__main__":  # python -m data_prep.toy.task > data_prep/toy/test_problems.jsonl
    for row in held_out_rows():
        print(json.dumps(row))
