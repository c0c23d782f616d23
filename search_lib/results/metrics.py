"""Accuracy of every aggregation at every budget, from the records of one run."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classifier_lib.flops import ModelSize
from run_lib.commands import InputError
from run_lib.settings import read_document
from run_lib.text import format_table, some_of
from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.calibration import Calibration
from search_lib.results.graded import CompleteProblem, GradedProblem, RunSummary
from search_lib.results.statistics import Estimate, estimate_of_problems
from search_lib.voting import FEATURES, choose_votes


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


class MetricTable:
    """The default and the named aggregations of a run at every power of two of trees.

    Problems are added one by one; of each there remain its accuracies. Default votes are left out
    unless every response has the features that they need. `t` trees give `num_repetitions // t`
    disjoint groups a problem: the repetitions of the estimate.

    Where problems stop when their trees are enough, only the first `t` count: which of the later
    ones there are depends on the first. A problem that stopped before has the vote of what it has.

    Args:
        num_blocks: Blocks of one tree.
        num_repetitions: Most trees of a problem.
        votes: Names of votes beside the default ones.
        is_stopped: Whether the run stops problems.
    """

    def __init__(
        self,
        num_blocks: int,
        num_repetitions: int,
        votes: Iterable[str] = (),
        is_stopped: bool = False,
    ):
        self._num_blocks = num_blocks
        self._sizes = [2**power for power in range(num_repetitions.bit_length())]
        self._num_groups = {t: 1 if is_stopped else num_repetitions // t for t in self._sizes}
        self._votes = list(votes)
        self._ids: list[str] = []
        self._num_trees = array("l")
        self._features = set(FEATURES)
        self._methods = choose_votes(self._votes, self._features)
        # By method and trees: mean accuracy and variance of each problem over its groups.
        self._means: dict[tuple[str, int], array[float]] = defaultdict(lambda: array("d"))
        self._variances: dict[tuple[str, int], array[float]] = defaultdict(lambda: array("d"))

    def add(self, problem_id: str, problem: GradedProblem) -> None:
        """Adds a problem.

        Raises:
            ValueError: If responses lack the features of a named vote; see `choose_votes`.
        """
        if lacking := self._features - problem.features:
            self._features -= lacking
            self._methods = choose_votes(self._votes, self._features)
        self._ids.append(problem_id)
        self._num_trees.append(len(problem.classes))
        for method in self._methods:
            for trees in self._sizes:
                scores = np.array(problem.score(method, trees)[: self._num_groups[trees]])
                self._means[method, trees].append(scores.mean())
                if len(scores) > 1:
                    self._variances[method, trees].append(scores.var(ddof=1))

    @property
    def problem_ids(self) -> list[str]:
        """The ids of the problems, sorted: the order of `MetricRow.per_problem`."""
        return sorted(self._ids)

    def rows(self) -> list[MetricRow]:
        """Returns the table; none without problems."""
        if not self._ids:
            return []
        order = np.argsort(np.array(self._ids, dtype=object), kind="stable")
        num_trees = np.array(self._num_trees)
        rows = []
        for method in self._methods:
            for trees in self._sizes:
                means = np.array(self._means[method, trees])[order]
                variances = np.array(self._variances[method, trees])
                estimate = estimate_of_problems(means, variances, self._num_groups[trees])
                budget = self._num_blocks * trees
                had = self._num_blocks * float(np.minimum(num_trees, trees).mean())
                rows.append(MetricRow(method, trees, budget, had, estimate, means.tolist()))
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


def format_joining(problems: Mapping[str, CompleteProblem]) -> str:
    """Returns a line on the answers that made two classes one; empty if there are none."""
    of_problem = {name: one.joining for name, one in sorted(problems.items()) if one.joining}
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
    problem_ids: list[str],
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
    from importlib.metadata import version

    counts = asdict(summary)
    del counts["cost"]
    calibrated = {"calibration": asdict(calibration)} if calibration else {}
    return calibrated | {
        "answers": rules.name,
        "math_verify": version("math-verify"),
        "summary": counts,
        "cost": summary.cost.document(policy, value_model),
        "problem_ids": problem_ids,
        "metrics": [asdict(row) for row in rows],
    }


class Metrics(NamedTuple):
    """What a `metrics.json` says of accuracies.

    Attributes:
        problem_ids: The complete problems with a reference, in order of each `per_problem`.
        rows: The table.
        without_reference: How many complete problems have none, and are no part of it.
    """

    problem_ids: list[str]
    rows: list[MetricRow]
    without_reference: int


NO_REFERENCE = "no problem has a reference answer: there are no accuracies"


def read_metrics(path: Path) -> Metrics | None:
    """Reads a `metrics.json`; returns None if there is none.

    Raises:
        InputError: If it is damaged, or none of its problems has a reference.
    """
    found = read_document(path, _parse_metrics)
    if found is not None and found.without_reference and not found.problem_ids:
        raise InputError(f"{path}: {NO_REFERENCE}")
    return found


def _parse_metrics(document: dict[str, Any]) -> Metrics:
    rows = []
    for row in document["metrics"]:
        earlier = {"mean_budget": row["budget"]}  # when no problem was stopped
        rows.append(MetricRow(**(earlier | row | {"estimate": Estimate(**row["estimate"])})))
    return Metrics(list(document["problem_ids"]), rows, document.get("without_reference", 0))


def stopping_document(
    problems: Mapping[str, CompleteProblem], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a run saved by `--stop`, as JSON types.

    `trees` are those of the complete problems, in the order of `problem_ids`; `saved_budget` is the
    share of the budget of all trees that these problems did without.

    Args:
        problems: The complete problems by id.
        flags: Flags of the run.
    """
    trees = [problem.num_trees for _, problem in sorted(problems.items())]
    mean_trees = float(np.mean(trees)) if trees else 0.0
    return {
        "rule": flags["stop"],
        "confidence": flags["stop_confidence"],
        "trees": trees,
        "mean_trees": mean_trees,
        "mean_budget": flags["num_blocks"] * mean_trees,
        "saved_budget": 1 - mean_trees / flags["num_repetitions"] if trees else 0.0,
    }
