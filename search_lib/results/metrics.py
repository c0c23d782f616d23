"""Accuracy of every aggregation at every budget, from the records of one run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classifier_lib.flops import ModelSize
from run_lib.text import format_table, some_of
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.calibration import Calibration
from search_lib.confidence import Confidence
from search_lib.grouping import Equivalence
from search_lib.results.cost import RunCost
from search_lib.results.records import Record
from search_lib.results.statistics import Estimate, estimate_mean
from search_lib.voting import FEATURES, Ballots, choose_votes, find_vote


@dataclass
class GradedProblem:
    """Answers, classes and values of the responses to one problem, by repetition.

    A problem that the run stopped early has fewer repetitions than others.

    Attributes:
        reference: The reference answer.
        answers: Answer of each response.
        classes: Answer class of each response (see `grouping`).
        correct: Whether each response is right.
        values: Value of each response; empty lists where there are none.
        rules: How they are counted.
        joining: Answers that the grader found equal to ones of two classes, which are one now.
        confidences: How sure the policy was of each response; empty lists where that is not known.
        calibrated: Calibrated value of each response; empty without a calibration.
    """

    reference: str
    answers: list[list[str | None]]
    classes: list[list[int | None]]
    correct: list[list[bool]]
    values: list[list[float]]
    rules: AnswerRules
    joining: Sequence[str] = ()
    confidences: list[list[Confidence]] = field(default_factory=list)
    calibrated: list[list[float]] = field(default_factory=list)

    @property
    def features(self) -> set[str]:
        """Keys of `FEATURES` that every response has."""
        expected = list(map(len, self.classes))
        return {name for name in FEATURES if list(map(len, getattr(self, name))) == expected}

    def calibrate(self, calibration: Calibration) -> None:
        """Gives the responses calibrated values, from their values."""
        self.calibrated = [calibration.apply(of_search) for of_search in self.values]

    def score(self, method: str, trees: int) -> list[float]:
        """Returns the accuracy of an aggregation over each whole group of `trees` repetitions.

        If there are fewer, they are the only group.
        """
        vote, scores = find_vote(method), []
        for start in range(0, max(1, len(self.classes) - trees + 1), trees):
            ballots = self.ballots(slice(start, start + trees))
            scores.append(vote(ballots, self.rules))
        return scores

    def ballots(self, group: slice) -> Ballots:
        """Returns the responses of some repetitions."""
        return Ballots(
            list(chain.from_iterable(self.classes[group])),
            list(chain.from_iterable(self.values[group])),
            list(chain.from_iterable(self.correct[group])),
            list(chain.from_iterable(self.confidences[group])),
            list(chain.from_iterable(self.calibrated[group])),
        )


@dataclass(frozen=True)
class RunSummary:
    """The content of `metrics.json` on a run's searches, but for the accuracies.

    Attributes:
        num_searches: Searches in the records.
        num_responses: Responses in the records.
        finished_share: Share of responses that the policy ended.
        answered_share: Share of responses with an answer.
        mean_response_tokens: Generated tokens of a kept response.
        tokens_generated: Tokens of all blocks, kept or not.
        search_seconds: Seconds summed over searches, which overlap.
        cost: Cost of the whole run.
    """

    num_searches: int
    num_responses: int
    finished_share: float
    answered_share: float
    mean_response_tokens: float
    tokens_generated: int
    search_seconds: float
    cost: RunCost


class CountedResponse(NamedTuple):
    """What votes need of a response."""

    answer: str | None
    value: float | None
    confidence: Confidence | None = None


TreeAnswers = Sequence[CountedResponse]
"""The responses of one tree."""


def grade_problem(
    trees: Sequence[TreeAnswers],
    reference: str,
    equivalent: Equivalence,
    rules: AnswerRules = STRICT,
) -> GradedProblem:
    """Groups the answers of one problem.

    Args:
        trees: Its trees, by repetition.
        reference: The reference answer.
        equivalent: See `grade_records`.
        rules: See `grade_records`.
    """
    answers = [[one.answer for one in tree] for tree in trees]
    grouping = rules.group(list(chain.from_iterable(answers)), reference, equivalent)
    classes, correct = iter(grouping.classes), iter(grouping.correct)
    return GradedProblem(
        reference=reference,
        answers=answers,
        classes=[[next(classes) for _ in tree] for tree in trees],
        correct=[[next(correct) for _ in tree] for tree in trees],
        values=[[one.value for one in tree if one.value is not None] for tree in trees],
        rules=rules,
        joining=grouping.joining,
        confidences=[[one.confidence for one in tree if one.confidence] for tree in trees],
    )


def grade_records(
    records: Iterable[Record],
    num_repetitions: int,
    equivalent: Equivalence,
    rules: AnswerRules = STRICT,
    calibration: Calibration | None = None,
) -> tuple[dict[str, GradedProblem], RunSummary]:
    """Groups the answers of every problem whose repetitions are all there.

    Args:
        records: Records of one run, in any order.
        num_repetitions: Repetitions of the run; a problem with fewer records is left out, unless
            they are those up to one that is enough.
        equivalent: The grader, whose comparison is that of the rules.
        rules: How answers are counted.
        calibration: Of values, if they are to be calibrated.

    Returns:
        The problems by id, sorted, and the run's summary.
    """
    references: dict[str, str] = {}
    responses: dict[str, dict[int, TreeAnswers]] = {}
    num_trees: dict[str, int] = {}
    costs, finished, lengths = [], [], []
    for record in records:
        references[record.problem_id] = record.reference
        of_problem = responses.setdefault(record.problem_id, {})
        of_problem[record.repetition] = [
            CountedResponse(rules.answer_of(r.text, r.answer), r.value, r.confidence)
            for r in record.responses
        ]
        if record.is_enough:
            num_trees[record.problem_id] = record.repetition + 1
        costs.append(record.cost)
        finished += [r.finished for r in record.responses]
        lengths += [r.num_tokens for r in record.responses]

    graded = {}
    for problem_id in sorted(responses):
        of_problem = responses[problem_id]
        needed = range(num_trees.get(problem_id, num_repetitions))
        if all(repetition in of_problem for repetition in needed):
            searches = [of_problem[repetition] for repetition in needed]
            graded[problem_id] = grade_problem(searches, references[problem_id], equivalent, rules)
            if calibration is not None:
                graded[problem_id].calibrate(calibration)
    answered = [
        one.answer is not None
        for of in responses.values()
        for search in of.values()
        for one in search
    ]
    summary = RunSummary(
        num_searches=len(costs),
        num_responses=len(lengths),
        finished_share=float(np.mean(finished)) if finished else 0.0,
        answered_share=float(np.mean(answered)) if answered else 0.0,
        mean_response_tokens=float(np.mean(lengths)) if lengths else 0.0,
        tokens_generated=sum(cost.tokens_generated for cost in costs),
        search_seconds=sum(cost.seconds for cost in costs),
        cost=RunCost.of(costs),
    )
    return graded, summary


@dataclass(frozen=True)
class MetricRow:
    """One cell of the table, with the accuracies behind it.

    Attributes:
        method: Name of a vote.
        trees: Repetitions voted together.
        budget: num_blocks x trees; the most of a problem, where the run stopped some of them.
        mean_budget: Mean over problems of what they had of it.
        estimate: Mean accuracy with its intervals.
        per_problem: [problems], the accuracy of each, in order of the problems' ids.
    """

    method: str
    trees: int
    budget: int
    mean_budget: float
    estimate: Estimate
    per_problem: list[float]


def common_features(problems: Iterable[GradedProblem]) -> set[str]:
    """Returns the keys of `FEATURES` that every response to every problem has."""
    return set(FEATURES).intersection(*(problem.features for problem in problems))


def compute_metrics(
    graded: dict[str, GradedProblem],
    num_blocks: int,
    num_repetitions: int,
    votes: Iterable[str] = (),
    is_stopped: bool = False,
) -> list[MetricRow]:
    """Returns the default and the named aggregations at every power of two of trees.

    Default ones are left out unless every response has the features that they need. `t` trees give
    `num_repetitions // t` disjoint groups a problem: the repetitions of the estimate.

    Where problems stop when their trees are enough, only the first `t` count: which of the later
    ones there are depends on the first. A problem that stopped before has the vote of what it has.

    Args:
        graded: The problems by id.
        num_blocks: Blocks of one tree.
        num_repetitions: Most trees of a problem.
        votes: Names of votes beside the default ones.
        is_stopped: Whether the run stops problems.

    Raises:
        ValueError: If responses lack the features of a named one; see `choose_votes`.
    """
    problems = list(graded.values())
    rows = []
    for method in choose_votes(votes, common_features(problems)):
        trees = 1
        while trees <= num_repetitions and problems:
            scores = np.array(
                [problem.score(method, trees)[: 1 if is_stopped else None] for problem in problems]
            )
            had = [min(trees, len(problem.classes)) for problem in problems]
            rows.append(
                MetricRow(
                    method,
                    trees,
                    num_blocks * trees,
                    num_blocks * float(np.mean(had)),
                    estimate_mean(scores),
                    scores.mean(1).tolist(),
                )
            )
            trees *= 2
    return rows


def format_metrics(rows: list[MetricRow]) -> str:
    """Returns the table of a run: a line an aggregation, a column a budget, accuracy in per cent.

    The last line is n: problems x independent groups of trees. A line before it has the mean budget
    of a problem, if some had less.
    """
    budgets = sorted({row.budget for row in rows})
    cells = {(row.method, row.budget): format_estimate(row.estimate) for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    of_budget = {row.budget: row.estimate for row in rows}
    counts = [f"{of_budget[b].num_problems} x {of_budget[b].num_repetitions}" for b in budgets]
    header = ["budget", *map(str, budgets)]
    lines = [[method, *(cells[method, budget] for budget in budgets)] for method in methods]
    spent = {row.budget: row.mean_budget for row in rows}
    if any(spent[budget] < budget for budget in budgets):
        lines.append(["mean budget", *(f"{spent[budget]:.1f}" for budget in budgets)])
    lines.append(["n", *counts])
    return format_table(header, lines)


def format_joining(graded: dict[str, GradedProblem]) -> str:
    """Returns a line on the answers that made two classes one; empty if there are none."""
    of_problem = {name: problem.joining for name, problem in graded.items() if problem.joining}
    if not of_problem:
        return ""
    count = sum(map(len, of_problem.values()))
    examples = some_of([f"{name}: {joining[0]!r}" for name, joining in of_problem.items()])
    return f"answers equal to two that differ, in one class with both: {count} ({examples})"


def format_estimate(estimate: Estimate) -> str:
    """Returns a mean in per cent with its intervals over problems and searches: 50.0 ±9.8 (3.1)."""

    def half_width(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    return (
        f"{100 * estimate.mean:.1f} ±{half_width(estimate.over_problems)} "
        f"({half_width(estimate.over_searches)})"
    )


PUBLISHED_NAMES = {"BoN": "bon", "MV": "maj", "WMV": "wmaj", "pass@1": "pass1", "pass@k": "pass"}
"""The published names of the aggregations; it has none for pass@1."""


def published_metrics(benchmark: str, rows: list[MetricRow]) -> dict[int, dict[str, float]]:
    """Returns the table of a run under the names that the published code logs to Neptune.

    They are `{benchmark}/{bon,maj,wmaj,pass}_{m,ci}`: mean and 95 % interval over searches, where
    there is one.

    Args:
        benchmark: See `--benchmark`; a path gives the file's name, and a copy that of its original.
        rows: The table.

    Returns:
        The metrics by step, which is the budget, num_blocks x trees; steps increase.
    """
    path = Path(benchmark)
    name = path.stem if path.exists() else benchmark.partition("=")[0]
    steps: dict[int, dict[str, float]] = {budget: {} for budget in sorted({r.budget for r in rows})}
    for row in rows:
        metric = f"{name}/{PUBLISHED_NAMES.get(row.method, row.method)}"
        steps[row.budget][f"{metric}_m"] = row.estimate.mean
        if row.estimate.over_searches is not None:
            steps[row.budget][f"{metric}_ci"] = row.estimate.over_searches
    return steps


def metrics_name(rules: AnswerRules) -> str:
    """Returns the name of the file of metrics by some rules."""
    return "metrics.json" if rules is STRICT else f"metrics.{rules.name}.json"


def metrics_document(
    graded: dict[str, GradedProblem],
    rows: list[MetricRow],
    summary: RunSummary,
    rules: AnswerRules = STRICT,
    policy: ModelSize | None = None,
    value_model: ModelSize | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Returns the content of `metrics.json`, as JSON types, but for `stopping`.

    `answers` names the rules by which answers are counted. `problem_ids` are those of the complete
    problems, in the order of each `per_problem`. The sizes of the models, where they are known,
    give the FLOPs of the `cost`. A calibration of the values is there if one was used.
    """
    counts = asdict(summary)
    del counts["cost"]
    calibrated = {"calibration": asdict(calibration)} if calibration else {}
    return calibrated | {
        "answers": rules.name,
        "math_verify": version("math-verify"),
        "summary": counts,
        "cost": summary.cost.document(policy, value_model),
        "problem_ids": list(graded),
        "metrics": [asdict(row) for row in rows],
    }


def parse_metrics(document: dict[str, Any]) -> tuple[list[str], list[MetricRow]]:
    """Returns the ids of the problems and the rows of a `metrics.json`."""
    rows = []
    for row in document["metrics"]:
        earlier = {"mean_budget": row["budget"]}  # when no problem was stopped
        rows.append(MetricRow(**(earlier | row | {"estimate": Estimate(**row["estimate"])})))
    return list(document["problem_ids"]), rows


def stopping_document(graded: dict[str, GradedProblem], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a run saved by `--stop`, as JSON types.

    `trees` are those of the complete problems, in the order of `problem_ids`; `saved_budget` is the
    share of the budget of all trees that these problems did without.

    Args:
        graded: The complete problems by id.
        flags: Flags of the run.
    """
    trees = [len(problem.classes) for problem in graded.values()]
    mean_trees = float(np.mean(trees)) if trees else 0.0
    return {
        "rule": flags["stop"],
        "confidence": flags["stop_confidence"],
        "trees": trees,
        "mean_trees": mean_trees,
        "mean_budget": flags["num_blocks"] * mean_trees,
        "saved_budget": 1 - mean_trees / flags["num_repetitions"] if trees else 0.0,
    }
