"""Grades a run; writes `metrics.json` beside its records and prints the table."""

from pathlib import Path

from classifier_lib.flops import model_size
from run_lib.files import write_json
from search_lib.grading import Grader
from search_lib.results.metrics import (
    MetricRow,
    compute_metrics,
    format_metrics,
    grade_records,
    metrics_document,
)
from search_lib.results.records import read_records
from search_lib.results.run_config import RunConfig

METRICS_NAME = "metrics.json"


def report(output_path: Path, config: RunConfig) -> list[MetricRow]:
    """Grades all records, writes `metrics.json` and prints the table.

    Args:
        output_path: The records.
        config: Configuration of the run.

    Returns:
        The rows of the table.
    """
    flags = config.flags
    num_blocks, num_repetitions = flags["num_blocks"], flags["num_repetitions"]
    with Grader(num_workers=2) as grader:
        graded, summary = grade_records(
            read_records(output_path), num_repetitions, grader.equivalent
        )
    rows = compute_metrics(graded, num_blocks, num_repetitions)
    path = output_path.with_name(METRICS_NAME)
    sizes = model_size(flags["piref_model"]), model_size(flags["classifier_ckpt_path"])
    write_json(path, metrics_document(graded, rows, summary, *sizes))
    print(
        f"\n{flags['benchmark']}, {flags['search_type']}: {len(graded)} of "
        f"{len(config.problem_ids)} problems complete, {num_blocks} blocks x up to "
        f"{num_repetitions} trees"
    )
    if rows:
        print(f"\n{format_metrics(rows)}\n")
        print("accuracy in % ± 95 % interval over problems (over searches on these problems)")
        print("n: problems x groups of trees")
    print(f"records: {output_path}\nmetrics: {path}")
    return rows
