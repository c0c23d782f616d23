"""The run of a stage whose rows a grader decides on."""

from collections.abc import Callable

import pyarrow as pa
from tqdm import tqdm

from data_prep.reports import RowReport
from data_prep.stages import Chunk, Stage
from search_lib.grading import Grader


def check_chunks(
    stage: Stage, grader: Grader, make: Callable[[Chunk], tuple[pa.Table, RowReport]]
) -> int:
    """Makes the pending chunks of a stage, and shows the progress.

    The report of a chunk also counts its checks that timed out or crashed. Such an answer counts as
    one that can't be read, or differs.

    Args:
        stage: The stage.
        grader: The grader that `make` uses.
        make: Returns the rows of a chunk, and the report of all its rows.

    Returns:
        The number of chunks made.
    """
    pending = list(stage.pending())
    num_rows = sum(chunk.num_rows for chunk in pending)
    statistics = grader.statistics
    with tqdm(total=num_rows, unit="row", disable=None) as progress:
        for chunk in pending:
            timed_out, crashed = statistics.timed_out, statistics.crashed
            table, report = make(chunk)
            report.totals["checks timed out"] = statistics.timed_out - timed_out
            report.totals["checks crashed"] = statistics.crashed - crashed
            stage.write(chunk, table, report)
            progress.update(chunk.num_rows)
    return len(pending)
