"""Answers graded a second: the grader of data_prep.label against a loop of math-verify calls.

    python -m scripts.bench.labelling

The published way checks every answer by itself: `verify(parse(reference), parse(answer))`. Ours
reads every answer only once, compares normal forms, and leaves what has none to math-verify in
several processes.

The answers are made up: 56 a problem, as in OpenR1-VM. A part of them has no box (responses that
ran into the limit). The others are drawn from so many different strings a problem, the k-th with a
probability proportional to 1/k: models make the same mistakes again and again. How many different
ones real roll-outs have depends on policy and problem; the table has a line for each of several
numbers, and the ratio is that for 8 of 56. Kinds of answers and their shares (`KINDS`) are a guess,
too.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import LABELLING, LabellingArgs

    ARGUMENTS = check_command_line(LabellingArgs, LABELLING, __doc__)

import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from math_verify import parse, verify

from run_lib.commands import parse_command_line, run_command
from scripts.bench import print_report
from scripts.bench.args import LABELLING, NUM_RESPONSES, TYPICAL_DISTINCT
from scripts.bench.args import LabellingArgs as Args
from search_lib.grading import Grader, forms
from search_lib.grading import grader as grading

UNBOXED_SHARE = 0.15


KINDS = {"integer": 0.55, "fraction": 0.2, "root": 0.13, "point": 0.07, "polynomial": 0.05}
OTHER_KIND_SHARE = 0.1  # of the wrong answers; most are of the kind of the right one

Pair = tuple[str, str]


def draw_value(rng: random.Random, kind: str) -> list[str]:
    """Draws a value in its spellings, as they stand in boxes of competition mathematics."""
    a, b, c = rng.randint(2, 60), rng.randint(2, 9), rng.randint(2, 30)
    if kind == "integer":
        number = rng.choice([a, a * c, -a, 1000 * b + c])
        return [f"{number}", f"{number:,}", f"{number}.0"]
    if kind == "fraction":
        return [rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}"]
    if kind == "root":
        return [rf"{b}\sqrt{{{c}}}", rf"\sqrt{{{c}}} \cdot {b}", rf"\sqrt{{{b * b * c}}}"]
    if kind == "point":
        return [f"({a}, {b})", f"({a},{b})"]
    return [f"x^2 + {b}x + {c}", f"{c} + {b}x + x^2"]


def draw_pairs(rng: random.Random, num_problems: int, distinct: int) -> list[Pair]:
    """Draws (reference, answer) for every response; an answer without a box is empty."""
    pairs = []
    for _ in range(num_problems):
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        right = draw_value(rng, kind)
        answers = right[:distinct]
        while len(answers) < distinct:
            (other,) = rng.choices(list(KINDS), list(KINDS.values()))
            wrong = draw_value(rng, other if rng.random() < OTHER_KIND_SHARE else kind)
            answers = [*dict.fromkeys([*answers, *wrong])][:distinct]
        if rng.random() < 0.4:  # the usual answer is a wrong one
            rng.shuffle(answers)
        weights = [1 / rank for rank in range(1, len(answers) + 1)]
        for answer in rng.choices(answers, weights, k=NUM_RESPONSES):
            pairs.append((right[0], "" if rng.random() < UNBOXED_SHARE else answer))
    return pairs


class Timing(NamedTuple):
    """The cost and the result of one way of grading.

    Attributes:
        seconds: Seconds for all answers.
        verdicts: The verdict on each answer.
        num_checked: Answers that math-verify has seen.
    """

    seconds: float
    verdicts: list[bool]
    num_checked: int


def grade_published(pairs: Sequence[Pair]) -> Timing:
    """Grades every answer by itself, with math-verify as its documentation uses it."""
    started = time.perf_counter()
    verdicts = [
        bool(answer) and verify(parse(rf"\boxed{{{reference}}}"), parse(rf"\boxed{{{answer}}}"))
        for reference, answer in pairs
    ]
    boxed = sum(bool(answer) for _, answer in pairs)
    return Timing(time.perf_counter() - started, verdicts, boxed)


def grade_ours(pairs: Sequence[Pair], warm_up: Sequence[Pair], num_workers: int) -> Timing:
    """Grades all answers with a grader that has seen others, but none of these."""
    for function in (forms.read, grading._decide_without_worker):
        function.cache_clear()  # what an earlier round has read
    with Grader(num_workers=num_workers) as grader:
        grader.equivalent(warm_up)
        num_checked = grader.statistics.checked
        started = time.perf_counter()
        verdicts = grader.equivalent(pairs)
        seconds = time.perf_counter() - started
        return Timing(seconds, verdicts, grader.statistics.checked - num_checked)


def main(args: Args) -> None:
    """Runs the benchmark and prints the table."""
    if args.quick:
        args = Args(problems=12, rounds=1, num_workers=args.num_workers, seed=args.seed)
    args.check()
    # The parser of LaTeX learns its grammar as it meets it; a run of hours has done so.
    warm_up = draw_pairs(random.Random("warm-up"), 20, TYPICAL_DISTINCT)
    grade_published(warm_up)
    rows = []
    ratio = 0.0
    for distinct in args.distinct:
        pairs = draw_pairs(random.Random(args.seed), args.problems, distinct)
        theirs = min(grade_published(pairs) for _ in range(args.rounds))
        ours = min(grade_ours(pairs, warm_up, args.num_workers) for _ in range(args.rounds))
        alone = min(grade_ours(pairs, warm_up, 1) for _ in range(args.rounds))
        if not theirs.verdicts == ours.verdicts == alone.verdicts:
            raise RuntimeError("the two ways grade some answers differently")
        if distinct == TYPICAL_DISTINCT:
            ratio = theirs.seconds / ours.seconds
        rows.append(
            [
                f"{distinct} of {NUM_RESPONSES}",
                *(f"{n:,}" for n in (len(pairs), theirs.num_checked, ours.num_checked)),
                *(f"{len(pairs) / way.seconds:,.0f}" for way in (theirs, alone, ours)),
                f"{theirs.seconds / ours.seconds:.1f}",
            ]
        )
    print_report(
        [
            *("different answers", "answers", "published checks", "our checks"),
            *("published /s", "ours, 1 process", f"{args.num_workers} processes", "x faster"),
        ],
        rows,
        [
            f"answers graded a second; x faster with {args.num_workers} processes",
            "both sides give every answer the same verdict",
        ],
        ratio,
    )


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, LABELLING, __doc__, argv)
    run_command(LABELLING, lambda: main(args))


if __name__ == "__main__":
    run()
