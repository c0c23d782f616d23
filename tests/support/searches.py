"""Small searches by the command line, and what they wrote."""

import dataclasses
import sys
from pathlib import Path

from inference_eval import Args
from search_lib.results.records import read_records
from tests.support.paths import ROOT


def make_args(models, folder, **changes) -> Args:
    args = Args(
        benchmark="toy",
        piref_model=str(models / "policy"),
        classifier_ckpt_path=str(models / "value_model"),
        output_path=folder / "records.jsonl",
        num_blocks=4,
        num_repetitions=2,
        block_size=8,
        max_length=32,
        temperature=1.0,
        top_p=1.0,
        max_problems=3,
        attention_impl="sdpa",
    )
    return dataclasses.replace(args, **changes)


def as_command(args: Args) -> list[str]:
    flags = [
        f"--{name}={single}"
        for name, value in dataclasses.asdict(args).items()
        for single in (value if isinstance(value, tuple) else (value,))
        if single is not None and single is not False
    ]
    return [sys.executable, str(ROOT / "inference_eval.py"), *flags]


def responses(path: Path) -> dict[tuple[str, int], list[tuple[str, int]]]:
    return {
        record.key: [(response.text, response.num_tokens) for response in record.responses]
        for record in read_records(path)
    }
