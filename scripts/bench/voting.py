r"""Votes at all budgets of one run: from answer classes, against comparing pairs at each budget.

    python -m scripts.bench.voting --quick     # 4 + 4 problems, within a minute
    python -m scripts.bench.voting             # 15 + 15 problems, some minutes

- *published*: for every budget, and every group of samples that it votes over, the answers are
  grouped anew: each is compared by math-verify with the first answer of every class so far. Then
  MV and WMV, and their winners are compared with the reference.
- *ours*: `graded.RunGrader` groups the answers of a problem once, by their normal forms; only
  answers without one go to math-verify. `metrics.MetricTable` computes all five aggregations at
  every budget from class numbers. The grader with its worker process is the real one.

Both run in this process and start from the records in memory; imports and the start of a worker are
not timed. The run fails unless every vote has the same winners and the same accuracy on both sides.

There are 64 samples a problem (4 blocks x 16 trees), at budgets 4, 8, 16, 32 and 64. The answers
are synthetic, as no records of the published runs are available. Problems range from hard to easy:
5 % to 90 % of the samples are correct, one in twelve has no answer, and the n-th of 12 wrong
answers has weight 1/n. Half of the problems have integers as answers, as in AIME, half fractions
and roots, as in HMMT. One answer in four has an unusual spelling (`033`; `\dfrac{1}{2}`,
`\frac{2}{4}`, `1/2`).

Columns: comparisons of two answers a problem (of ours, those that reach the worker); milliseconds
a problem. The ratio is that of the time for all problems.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import VOTING, VotingArgs

    ARGUMENTS = check_command_line(VotingArgs, VOTING, __doc__)

import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from math_verify import parse, verify

from run_lib.commands import run_command
from scripts.bench import print_report
from scripts.bench.args import VOTING
from scripts.bench.args import VotingArgs as Args
from search_lib.grading import Grader
from search_lib.results.cost import SearchCost
from search_lib.results.graded import GradedProblem, RunGrader
from search_lib.results.metrics import MetricTable
from search_lib.results.records import Record, RecordedResponse
from search_lib.strategies import Node
from search_lib.voting import winners

NUM_WRONG = 12
LEAST_CORRECT, MOST_CORRECT = 0.05, 0.9
UNANSWERED, UNUSUAL = 1 / 12, 1 / 4
REPRESENTATIVE = 0


def integer_spellings(rng: random.Random) -> list[str]:
    """Returns ways to write one integer answer, the usual one first."""
    number = rng.randrange(1, 1000)
    return [f"{number}", f"{number:03d}", f"{number}.0"]


def expression_spellings(rng: random.Random) -> list[str]:
    """Returns ways to write a fraction or a root, the usual one first."""
    if rng.random() < 0.5:
        top, bottom = rng.randrange(1, 100), rng.choice([7, 11, 13, 17, 19, 23])
        top += top % bottom == 0
        return [
            rf"\frac{{{top}}}{{{bottom}}}",
            rf"\dfrac{{{top}}}{{{bottom}}}",
            rf"\frac{{{2 * top}}}{{{2 * bottom}}}",
            f"{top}/{bottom}",
        ]
    factor, root = rng.randrange(2, 30), rng.choice([2, 3, 5, 6, 7, 10, 11])
    return [
        rf"{factor}\sqrt{{{root}}}",
        rf"\sqrt{{{factor**2 * root}}}",
        rf"\sqrt{{{root}}}{factor}",
    ]


KINDS: dict[str, Callable[[random.Random], list[str]]] = {
    "integers": integer_spellings,
    "expressions": expression_spellings,
}


def draw_records(
    kind: str, num_problems: int, num_blocks: int, num_repetitions: int, seed: int
) -> Iterator[Record]:
    """Yields the records of a run (see the module)."""
    for problem in range(num_problems):
        rng = random.Random(f"{kind} {problem} {seed}")
        answers: list[list[str]] = []
        while len(answers) < 1 + NUM_WRONG:  # the first is the reference
            spellings = KINDS[kind](rng)
            if spellings[0] not in (other[0] for other in answers):
                answers.append(spellings)
        place = problem / max(num_problems - 1, 1)
        correct = LEAST_CORRECT + (MOST_CORRECT - LEAST_CORRECT) * place
        wrong = [1 / n for n in range(1, NUM_WRONG + 1)]
        weights = [correct, *((1 - correct) * weight / sum(wrong) for weight in wrong)]
        for repetition in range(num_repetitions):
            responses = []
            for node in range(num_blocks):
                spellings = rng.choices(answers, weights)[0]
                answer = rng.choice(spellings[1:]) if rng.random() < UNUSUAL else spellings[0]
                answered = rng.random() >= UNANSWERED
                responses.append(
                    RecordedResponse(
                        "", answer if answered else None, rng.random(), answered, 1, node
                    )
                )
            yield Record(
                problem_id=f"{kind}-{problem:03d}",
                repetition=repetition,
                problem="",
                reference=answers[0][0],
                seed=0,
                responses=responses,
                tree=[Node(None, 1, 0.5, "stop")] * num_blocks,
                cost=SearchCost(num_blocks, 0.0),
            )


class Vote(NamedTuple):
    """Result of one aggregation over one group of samples.

    Attributes:
        winning: A sample of each winning class, by its index in the group.
        accuracy: 1 over the number of winners if the reference is one of them, else 0.
    """

    winning: list[int]
    accuracy: float


class PublishedVotes:
    """The published procedure, written from its description.

    Attributes:
        comparisons: Comparisons by math-verify.
    """

    def __init__(self) -> None:
        self.comparisons = 0

    def equal(self, reference: str, answer: str) -> bool:
        """Returns whether two answers are equal, from their strings."""
        self.comparisons += 1
        return verify(parse(f"\\boxed{{{reference}}}"), parse(f"\\boxed{{{answer}}}"))

    def vote(
        self, answers: list[str | None], values: list[float], reference: str
    ) -> dict[str, Vote]:
        """Returns MV and WMV over one group of samples."""
        classes: list[list[int]] = []
        for index, answer in enumerate(answers):
            if answer is None:
                continue
            for members in classes:
                if self.equal(str(answers[members[REPRESENTATIVE]]), answer):
                    members.append(index)
                    break
            else:
                classes.append([index])
        return {
            "MV": self._elect(classes, [1.0] * len(values), answers, reference),
            "WMV": self._elect(classes, values, answers, reference),
        }

    def _elect(
        self,
        classes: list[list[int]],
        weights: list[float],
        answers: list[str | None],
        reference: str,
    ) -> Vote:
        totals = [sum(weights[index] for index in members) for members in classes]
        most = max(totals, default=0.0) * (1 - 1e-9)
        winning = [
            members[REPRESENTATIVE]
            for members, total in zip(classes, totals, strict=True)
            if total >= most
        ]
        correct = any(self.equal(reference, str(answers[index])) for index in winning)
        return Vote(winning, correct / len(winning) if winning else 0.0)


Votes = dict[tuple[str, str, int], list[Vote]]
"""Votes of all groups of `trees` trees, by (problem, aggregation, trees)."""


def budgets(num_repetitions: int) -> list[int]:
    """Returns the powers of two up to the number of trees."""
    return [1 << power for power in range(num_repetitions.bit_length())]


def vote_as_published(
    records: list[Record], num_repetitions: int, published: PublishedVotes
) -> Votes:
    """Returns the votes of all problems at all budgets."""
    by_problem: dict[str, list[Record]] = {}
    for record in records:
        by_problem.setdefault(record.problem_id, []).append(record)
    votes: Votes = {}
    for problem_id, searches in by_problem.items():
        for trees in budgets(num_repetitions):
            for start in range(0, num_repetitions - trees + 1, trees):
                group = [r for search in searches[start : start + trees] for r in search.responses]
                of_group = published.vote(
                    [response.answer for response in group],
                    [response.value for response in group if response.value is not None],
                    str(searches[0].reference),
                )
                for method, vote in of_group.items():
                    votes.setdefault((problem_id, method, trees), []).append(vote)
    return votes


def check_agreement(votes: Votes, graded: dict[str, GradedProblem]) -> None:
    """Raises RuntimeError unless all votes have the same winners and accuracy on both sides."""
    for (problem_id, method, trees), of_groups in votes.items():
        problem = graded[problem_id]
        accuracies = problem.score(method, trees)
        for group, (vote, accuracy) in enumerate(zip(of_groups, accuracies, strict=True)):
            part = slice(group * trees, (group + 1) * trees)
            classes = list(chain.from_iterable(problem.classes[part]))
            values = list(chain.from_iterable(problem.values[part]))
            ours = winners(classes, [1.0] * len(classes) if method == "MV" else values)
            theirs = [classes[index] for index in vote.winning]
            if set(ours) != set(theirs) or vote.accuracy != accuracy:
                raise RuntimeError(
                    f"{problem_id}, {method}, {trees} trees, group {group}: published {theirs} "
                    f"({vote.accuracy}), ours {ours} ({accuracy})"
                )


def main(args: Args) -> None:
    """Prints the table and the ratio."""
    num_problems = args.problems or (4 if args.quick else 15)
    rows = []
    totals = {"published": 0.0, "ours": 0.0}
    verify(parse("\\boxed{x+x}"), parse("\\boxed{2x}"))  # builds parser tables
    for kind in KINDS:
        records = list(
            draw_records(kind, num_problems, args.num_blocks, args.num_repetitions, args.seed)
        )
        published = PublishedVotes()
        start = time.perf_counter()
        votes = vote_as_published(records, args.num_repetitions, published)
        seconds = {"published": time.perf_counter() - start}
        with Grader(num_workers=2) as grader:
            grader.equivalent([("x+x", "2x")])  # starts a worker
            before = grader.statistics.checked
            start = time.perf_counter()
            run = RunGrader(args.num_repetitions, grader.equivalent)
            table = MetricTable(args.num_blocks, args.num_repetitions)
            graded = dict(run.problems(records))
            for problem in graded.items():
                table.add(*problem)
            table.rows()
            seconds["ours"] = time.perf_counter() - start
            checked = grader.statistics.checked - before
        check_agreement(votes, graded)
        for way, comparisons in (("published", published.comparisons), ("ours", checked)):
            totals[way] += seconds[way]
            rows.append(
                [
                    f"{kind}, {way}",
                    f"{num_problems}",
                    f"{comparisons / num_problems:,.1f}",
                    f"{1000 * seconds[way] / num_problems:,.1f}",
                    f"{seconds['published'] / seconds[way]:,.1f}",
                ]
            )
    samples = args.num_blocks * args.num_repetitions
    notes = [f"{samples} samples a problem; all votes have the same winners on both sides"]
    columns = ["answers", "problems", "comparisons", "ms/problem", "x faster"]
    print_report(columns, rows, notes, totals["published"] / totals["ours"])


if __name__ == "__main__":
    run_command(VOTING, lambda: main(ARGUMENTS))
