"""Lines of token ids for TRL's trainers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

SIDES = {
    "sft": ("completion",),
    "kto": ("completion",),
    "dpo": ("chosen", "rejected"),
}
"""Names of what stands behind the prompt, by method."""


def token_lines(
    method: str, count: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> list[dict[str, Any]]:
    """Random lines. Every second completion has an end token, as only last steps have."""
    rng = np.random.default_rng(seed)

    def digits(least: int) -> list[int]:
        return rng.integers(15, 25, rng.integers(least, least + 6)).tolist()

    lines = []
    for number in range(count):
        prompt = [*tokenizer.encode("start "), *digits(3)]
        line: dict[str, Any] = {"prompt": tokenizer.decode(prompt), "prompt_token_ids": prompt}
        for side in SIDES[method]:
            ids = digits(2) + [tokenizer.eos_token_id] * (number % 2)
            line |= {side: "of another text", f"{side}_token_ids": ids}
        if method == "kto":
            line["label"] = bool(number % 3)
        lines.append(line)
    return lines


def write_token_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path
