"""Small problems with many ties, and their votes one by one."""

import random
from collections.abc import Iterable
from itertools import chain

from search_lib.answer_rules import PUBLISHED, STRICT, AnswerRules
from search_lib.confidence import Confidence
from search_lib.results.graded import GradedProblem
from search_lib.voting import VOTES, Ballots


def make_problem(
    seed: int, rules: AnswerRules = STRICT, num_trees: int = 4, per_tree: int = 3
) -> GradedProblem:
    """Few answers and values, so that there are many ties; some responses take no part."""
    draw = random.Random(seed)
    answers = [0, 1, 1, 2, None] if rules is STRICT else [0, 1, 1, 2]
    classes = [[draw.choice(answers) for _ in range(per_tree)] for _ in range(num_trees)]
    right = [[c == 0 or (rules is PUBLISHED and draw.random() < 0.3) for c in t] for t in classes]
    values = [[draw.choice([0.0, 0.25, 0.5]) for _ in range(per_tree)] for _ in range(num_trees)]
    problem = GradedProblem("9", classes, classes, right, values, rules)
    problem.confidences = [[make_confidence(draw) for _ in of] for of in classes]
    problem.calibrated = [[draw.choice([0.25, 0.5]) for _ in of] for of in classes]
    return problem


def make_confidence(draw: random.Random) -> Confidence:
    """Numbers with few values, so that there are ties."""
    return Confidence(*(draw.choice([8.0, 10.0, 12.0]) for _ in range(5)))


def vote(problem: GradedProblem, method: str, trees: Iterable[int]) -> float:
    """The aggregation over some trees, as a search with only these would have it."""
    trees = list(trees)
    parts = [getattr(problem, feature) for feature in Ballots._fields]
    ballots = Ballots(*(list(chain.from_iterable(part[t] for t in trees)) for part in parts))
    return VOTES[method](ballots, problem.rules)
