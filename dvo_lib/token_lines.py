"""Lines of token ids to train on, as `data_prep.dvo export` and `data_prep.dvo sft` write them.

Such a line has its texts, too. They are for people: what is trained on is the ids, so nothing is
tokenized again and no end token is added.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

Method = Literal["sft", "dpo", "kto"]

COMPLETIONS: dict[Method, tuple[str, ...]] = {
    "sft": ("completion_token_ids",),
    "dpo": ("chosen_token_ids", "rejected_token_ids"),
    "kto": ("completion_token_ids",),
}
"""Columns behind the prompt that a method trains on."""

FORMATS: dict[Method, str] = {"sft": "rft", "dpo": "dpo or step_dpo", "kto": "kto"}
"""What `data_prep.dvo export --format` is to be for a method."""


@dataclass(frozen=True)
class TokenLines:
    """The lines of a file that are trained on.

    Attributes:
        columns: Values by column, in the order of the lines: [tokens] int32 for ids, and the bool
            `label` for KTO.
        num_left_out: Lines that are longer than `max_length`.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    num_left_out: int = 0

    def __len__(self) -> int:
        return len(self.columns["prompt_token_ids"])


@dataclass(frozen=True)
class LineReader:
    """Reads lines and checks that a policy can be trained on them.

    Attributes:
        method: What they are for.
        tokenizer: Tokenizer of the policy.
        vocab_size: Its embeddings.
        max_length: Most tokens of a prompt with one of its completions. A longer line is left out
            whole: a completion that is cut would lose its answer.
    """

    method: Method
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    max_length: int

    def read(self, path: Path) -> TokenLines:
        """Reads a file.

        Raises:
            ValueError: If a line can't be used, or none is left; begins with the path.
            OSError: If there is no such file.
        """
        rows, num_left_out = [], 0
        names = ["prompt_token_ids", *COMPLETIONS[self.method]]
        for row in self._rows(path):
            longest = max(len(row[name]) for name in names[1:])
            if len(row[names[0]]) + longest > self.max_length:
                num_left_out += 1
            else:
                rows.append(row)
        if not rows:
            what = f"{num_left_out} lines, all longer than {self.max_length} tokens"
            raise ValueError(f"{path} has {what if num_left_out else 'no lines'}")
        if self.method == "kto":
            names.append("label")
        return TokenLines({name: [row[name] for row in rows] for name in names}, num_left_out)

    def _rows(self, path: Path) -> Iterator[dict[str, Any]]:
        last_prompt = None
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                try:
                    row = self._parse(text)
                    if row["prompt_token_ids"].tolist() != last_prompt:  # lines of a tree share it
                        last_prompt = row["prompt_token_ids"].tolist()
                        self._check_prompt(row["prompt"], last_prompt)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from error
                yield row

    def _parse(self, text: bytes) -> dict[str, Any]:
        if not text.endswith(b"\n"):
            raise ValueError("it is cut off, without a line's end")
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"no JSON: {error}") from error
        if not isinstance(line, dict):
            raise ValueError("no JSON object")
        names = ["prompt_token_ids", *COMPLETIONS[self.method]]
        needed = ["prompt", *names] + ["label"] * (self.method == "kto")
        if missing := [name for name in needed if name not in line]:
            raise ValueError(
                f"no column {', '.join(missing)}: --method {self.method} needs a file of "
                f"data_prep.dvo export --format {FORMATS[self.method]}"
            )
        row: dict[str, Any] = {name: self._token_ids(name, line[name]) for name in names}
        row["prompt"] = line["prompt"]
        if self.method == "kto":
            if not isinstance(line["label"], bool):
                raise ValueError(f"the label is {line['label']!r}, not true or false")
            row["label"] = line["label"]
        return row

    def _token_ids(self, name: str, ids: Any) -> np.ndarray:
        if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
            raise ValueError(f"{name} is no list of token ids with one or more of them")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise ValueError(
                f"{name} holds ids from {min(ids)} to {max(ids)}, and the policy has a vocabulary "
                f"of {self.vocab_size} tokens"
            )
        return np.array(ids, dtype=np.int32)

    def _check_prompt(self, prompt: Any, ids: list[int]) -> None:
        if self.tokenizer.decode(ids) != prompt:
            raise ValueError(
                "the policy's tokenizer reads another prompt: the ids are of another one"
            )
