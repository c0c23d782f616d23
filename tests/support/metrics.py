"""The metrics of a finished run, made up."""

from pathlib import Path

from run_lib.files import write_json
from search_lib.results.statistics import Estimate


def write_run(folder: Path, accuracies: dict[int, list[float]], methods=("MV",), ids="abcd") -> str:
    """The metrics of a run, the accuracy of each problem by budget."""
    rows = [
        {
            "method": method,
            "budget": budget,
            "estimate": Estimate(sum(values) / len(values), 0.1, None, len(values), 1).__dict__,
            "per_problem": values,
        }
        for method in methods
        for budget, values in accuracies.items()
    ]
    write_json(folder / "metrics.json", {"problem_ids": list(ids), "metrics": rows})
    return str(folder)
