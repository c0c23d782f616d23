"""The flags of the commands about value models, and the names that they choose among."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from run_lib.commands import GPU_REQUIREMENTS, InputError, at_least, check_installed
from run_lib.settings import free

SCORE = "classifier_lib.score"
EVALUATION = "classifier_lib.evaluation"
SERVE = "classifier_lib.serve"
EVALUATION_FILE = "evaluation.json"


PackingName = Literal["padded", "packed", "shared_prefix"]
DEFAULT_TOKENS = 65_536
"""Most tokens in a packed micro batch by default; meant for a 1.5B model on a GPU of 80 GB."""

LossName = Literal["cross_entropy", "bce", "mse", "bradley_terry"]
NUM_LABELS: Mapping[LossName, int] = {
    "cross_entropy": 3,
    "bce": 1,
    "mse": 1,
    "bradley_terry": 1,
}
"""Logits that each loss of `losses.LOSSES` trains."""


def default_token_limit(micro_batch_size: int, max_length: int) -> int:
    """Returns the most tokens of a packed micro batch: those that a padded one could have."""
    return min(micro_batch_size * max_length, DEFAULT_TOKENS)


@dataclass(frozen=True)
class ScoreArgs:
    """Write the values of prompts and responses."""

    model: str
    """Folder or Hub id of the value model."""
    input: Path
    """JSON-lines file with prompt and response, or prompt_ids and response_ids, in every row."""
    output: Path = free()
    """JSON-lines file of the values, continued if it is there. Beside it: <output>.config.json."""
    tokenizer: str | None = None
    """Folder or Hub id of the policy's tokenizer, for rows of text; by default the model's folder
    (the published value model has none)."""
    at: Literal["end", "tokens"] = "end"
    """Where to value: after the last token, or after every response token."""
    max_length: int | None = None
    """Longest row in tokens, prompt included; a longer one gets an error. By default the model's
    context."""
    max_batch_tokens: int = free(16_384)
    """Tokens of a forward, padding included; a row longer than that goes alone. Changes values by
    rounding only."""
    attention_impl: str = free("sdpa")
    """Attention implementation of transformers; flash_attention_2 falls back to sdpa."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; bfloat16 is much faster on a GPU."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, max_batch_tokens=self.max_batch_tokens, max_length=self.max_length)
        if not self.input.is_file():
            fault = "is not a regular file" if self.input.exists() else "does not exist"
            raise InputError(f"--input {self.input} {fault}")


@dataclass(frozen=True)
class EvaluationArgs:
    """Evaluate a value model on held-out roll-outs."""

    model: str
    """Folder or Hub id of the value model."""
    data: str
    """Parquet file or folder, save_to_disk folder or Hub id, with the columns of OpenR1-VM."""
    data_num_response: int = 56
    """Responses in every row."""
    batch_size: int = 8
    """Samples in a forward of each process; even for a loss of pairs."""
    max_length: int = 16384
    """Longest sequence in tokens, prompt included; longer ones are cut on the right."""
    bucket_tokens: int = 1024
    """Width of the absolute position buckets, in tokens."""
    skip_bad_rows: bool = False
    """Leave out rows that can't be used, instead of ending."""
    loss: LossName = "cross_entropy"
    """Loss that the model was trained with."""
    attention_impl: str = "sdpa"
    """Attention implementation of transformers; flash_attention_2 falls back to sdpa."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    output: Path = Path(EVALUATION_FILE)
    """Where the metrics are written, as JSON."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(
            1,
            batch_size=self.batch_size,
            max_length=self.max_length,
            bucket_tokens=self.bucket_tokens,
        )
        is_odd = self.batch_size % 2 or self.data_num_response % 2
        if self.loss == "bradley_terry" and is_odd:
            raise InputError(
                f"--loss {self.loss} needs an even --batch_size and an even --data_num_response"
            )


def parse_serving(
    arguments: Sequence[str], description: str | None
) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags of `classifier_lib.serve`, and the arguments that are SGLang's."""
    parser = argparse.ArgumentParser(
        prog=SERVE,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="value model: hub id or folder")
    parser.add_argument(
        "--end_with_parent",
        action="store_true",
        help="end when the process that started this one does, however that ends",
    )
    return parser.parse_known_args(arguments)


def check_serving() -> None:
    """Raises InputError if SGLang, which serves, is missing."""
    check_installed("SGLang", "serving a value model", GPU_REQUIREMENTS)
