"""Rows for the scoring command, and its command lines."""

import json
import random
from pathlib import Path
from typing import Any

from classifier_lib.score import ScoreArgs
from data_prep.toy.tokenizer import build_tokenizer

PROMPTS = [
    "<|begin|>start 3 +4 *7<think>",
    "start 8 -2<think>",
    "π ≠ 3 <thi",
]  # the last is cut in a token
PIECES = ["3 +4 = 7 ok\n", " hm", "</think>\\boxed{7}<|end|>", "é", "nk>"]
WINDOW = 16


def text_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of text that share prompts; every seventh response is empty, every third has no id."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        response = "".join(rng.choices(PIECES, k=rng.randint(1, 9)))
        rows.append(
            {
                "prompt": rng.choice(PROMPTS),
                "response": "" if index % 7 == 5 else response,
                **({"id": f"row-{index}"} if index % 3 else {}),
            }
        )
    return rows


def token_ids(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt and response ids of a row of text, by a tokenizer that adds nothing."""
    tokenizer = build_tokenizer()
    return tokenizer.encode(row["prompt"]), tokenizer.encode(row["response"])


def id_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "prompt_ids": [rng.randrange(291) for _ in range(rng.randint(1, 20))],
            "response_ids": [rng.randrange(291) for _ in range(rng.randint(0, 60))],
        }
        for _ in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_text()
    assert content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def make_args(model: Path, rows: Path, output: Path, **changes: Any) -> ScoreArgs:
    return ScoreArgs(
        **{"model": str(model), "input": rows, "output": output, "max_batch_tokens": 200, **changes}
    )


def command(model: Path, rows: Path, output: Path, *flags: str) -> list[str]:
    return ["--model", str(model), "--input", str(rows), "--output", str(output), *flags]
