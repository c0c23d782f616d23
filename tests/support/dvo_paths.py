"""Trees of paths for training, in the columns of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dvo_lib.columns import PATH_SCHEMA, REFERENCE

DELIMITER, END = 1, 2
"""Last tokens of a step, and of the last step of a path."""


def path_rows(
    num_trees: int, vocab_size: int, seed: int = 0, per_side: int = 2
) -> list[dict[str, Any]]:
    """Rows of random trees: the paths of a tree share a prompt and, two each, a first step."""
    rng = np.random.default_rng(seed)

    def step(end: int) -> list[int]:
        return [*rng.integers(3, vocab_size, rng.integers(1, 6)).tolist(), end]

    rows = []
    for tree in range(num_trees):
        prompt = rng.integers(3, vocab_size, 18).tolist()
        firsts = [step(DELIMITER) for _ in range(per_side)]
        for path in range(2 * per_side):
            middle = [step(DELIMITER) for _ in range(rng.integers(0, 2))]
            steps = [firsts[path % per_side], *middle, step(END)]
            correct = path < per_side
            credits = rng.normal(0.3 if correct else -0.3, 0.3, len(steps)).tolist()
            rows.append(
                {
                    "problem_id": f"p{tree}",
                    "problem": "1 + 1 = ?",
                    "answer": "2",
                    "path": path,
                    "prompt_ids": prompt,
                    "step_ids": steps,
                    "steps": [""] * len(steps),
                    "visits": [1] * len(steps),
                    "values": [0.0] * len(steps),
                    "credits": credits,
                    "reward": 1.0 if correct else -1.0,
                    "correct": correct,
                    REFERENCE: [-4.0 * len(ids) for ids in steps],
                }
            )
    return rows


def write_paths(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows as a Parquet file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=PATH_SCHEMA), file)
    return file
