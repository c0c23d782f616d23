"""The metrics of a finished run, made up."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from run_lib.files import write_json
from search_lib.results.metrics import MetricRow
from search_lib.results.statistics import Estimate


def metric_row(method: str, budget: int, per_problem: list[float]) -> MetricRow:
    """A row of one repetition, with an interval of 0.1."""
    mean = sum(per_problem) / len(per_problem)
    estimate = Estimate(mean, 0.1, None, len(per_problem), 1)
    return MetricRow(method, 1, budget, budget, estimate, per_problem)


def write_run(
    folder: Path,
    accuracies: Mapping[int, list[float]],
    methods: Sequence[str] = ("MV",),
    ids: Sequence[str] = "abcd",
) -> str:
    """The metrics of a run, the accuracy of each problem by budget."""
    rows = [
        asdict(metric_row(method, budget, values))
        for method in methods
        for budget, values in accuracies.items()
    ]
    write_json(folder / "metrics.json", {"problem_ids": list(ids), "metrics": rows})
    return str(folder)
