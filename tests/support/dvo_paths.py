"""Trees of paths for training, in the columns of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

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
        firsts = [(step(DELIMITER), rng.normal(0, 0.5)) for _ in range(per_side)]
        for path in range(2 * per_side):
            middle = [step(DELIMITER) for _ in range(rng.integers(0, 2))]
            first, credit = firsts[path % per_side]
            steps = [first, *middle, step(END)]
            correct = path < per_side
            own = rng.normal(0.3 if correct else -0.3, 0.3, len(steps) - 1)
            credits = [credit, *own.tolist()]
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


def step_logprobs(policy: Path | str, rows: list[dict[str, Any]]) -> list[list[float]]:
    """Log-probabilities of the steps of each row, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    found = []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + [x for step in row["step_ids"] for x in step]])
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        tokens = logprobs.gather(1, ids[0, 1:, None])[len(row["prompt_ids"]) - 1 :, 0]
        sizes = [len(step) for step in row["step_ids"]]
        found.append([float(step.sum()) for step in tokens.split(sizes)])
    return found


def implicit_rewards(policy: Path | str, rows: list[dict[str, Any]], beta: float) -> list[float]:
    """`beta * sum_t log(pi / pi_ref)` of each row."""
    return [
        beta * (sum(own) - sum(row[REFERENCE]))
        for row, own in zip(rows, step_logprobs(policy, rows), strict=True)
    ]


def command_line(policy: Path, data: Path, output_dir: Path, **changes: object) -> list[str]:
    """Flags of a short run, with some of them changed (None leaves a flag out)."""
    values: dict[str, object] = {
        "data_path": data,
        "model_path": policy,
        "output_dir": output_dir,
        "run_name": "run",
        "num_steps": 4,
        "total_batch_size": 4,
        "tokens_per_micro_batch": 150,
        "max_lr": 1e-3,
        "beta": 0.5,
        **changes,
    }
    pairs = [(name, value) for name, value in values.items() if value is not None]
    return [text for name, value in pairs for text in (f"--{name}", str(value))]
