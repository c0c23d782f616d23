"""Runs that have ended, written without a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classifier_lib.flops import ModelSize
from run_lib.files import write_json
from run_lib.settings import as_json
from search_lib.results.answers import answers_file
from search_lib.results.cost import SearchCost
from search_lib.results.graded import RunGrader
from search_lib.results.metrics import MetricTable, metrics_document
from search_lib.results.records import Record, RecordedResponse, RecordFile
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.search_args import Args

POLICY, VALUE_MODEL = ModelSize(100, 8), ModelSize(50, 4)

Trees = Sequence[Sequence[tuple[str | None, float | None]]]
"""Of each tree, the (answer, value) of its responses."""


def tree_cost(tree: int, **changes: Any) -> SearchCost:
    """Later trees cost more; 20 seconds in all."""
    tokens = 10 * (tree + 1)
    known = {
        "contexts_generated": 5 * tokens,
        "tokens_scored": tokens + 1,
        "contexts_scored": 5 * tokens + 5,
        "tokens_cached": 0,
        "session": "s",
        "session_seconds": 20.0,
        "session_busy_seconds": 20.0,
    }
    return SearchCost(tokens, 1.0, **(known | changes))


def write_run(
    folder: Path, searches: Mapping[str, tuple[str | None, Trees]], **changes: Any
) -> list[Record]:
    """Writes all files of a run, its answers compared as strings.

    Args:
        folder: Folder of the run.
        searches: The reference and the trees of each problem.
        **changes: Flags that are others than those of one tree of best-of-n, `digest` of the
            problems, or numbers of each search's cost. Problems with fewer trees than
            `num_repetitions` have stopped.
    """
    of_cost = changes.keys() & SearchCost.__annotations__
    costs = {name: changes.pop(name) for name in of_cost}
    records = [
        Record(
            *(problem_id, tree, "", reference, 0),
            [RecordedResponse("", answer, value, True, 10, 0) for answer, value in responses],
            [],
            tree_cost(tree, **costs),
            tree + 1 == len(trees) < changes.get("num_repetitions", 0),
        )
        for problem_id, (reference, trees) in searches.items()
        for tree, responses in enumerate(trees)
    ]
    write_records(folder, records, **changes)
    return records


def write_records(folder: Path, records: Sequence[Record], **changes: Any) -> None:
    """Writes all files of a run of these records, its answers compared as strings.

    Args:
        folder: Folder of the run.
        records: Records, with every tree of each problem.
        **changes: See `write_run`, but for the costs.
    """
    folder.mkdir()
    problem_ids = list(dict.fromkeys(record.problem_id for record in records))
    num_trees = changes.get("num_repetitions", len(records) // len(problem_ids))
    digest = changes.pop("digest", None)
    args = Args("mine.jsonl", "policy", "values", answer_format="boxed", search_type="bon")
    flags = as_json(args) | {"output_path": "r.jsonl", "num_repetitions": num_trees} | changes
    config = RunConfig(flags, {"benchmark": digest}, problem_ids)
    write_json(folder / CONFIG_NAME, config.document())
    with RecordFile(folder / "r.jsonl") as file:
        for record in reversed(records):
            file.append(record)
    grader = RunGrader(num_trees, lambda pairs: [first == second for first, second in pairs])
    table = MetricTable(flags["num_blocks"], num_trees, flags["vote"], config.is_stopped)
    with answers_file(folder / "answers.jsonl") as answers:
        for problem_id, problem in grader.problems(records):
            if problem.reference is not None:
                table.add(problem_id, problem)
            answers.add(problem_id, problem)
    document = metrics_document(
        *(table.problem_ids, table.rows(), grader.summary()),
        policy=POLICY,
        value_model=VALUE_MODEL,
    )
    unknown = sum(problem.reference is None for problem in grader.complete.values())
    write_json(folder / "metrics.json", document | {"without_reference": unknown})
