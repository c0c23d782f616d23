"""Small searches by the command line, and what they wrote."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from run_lib.settings import as_json
from search_lib.engines.base import Expansion, Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, read_records
from search_lib.search_args import Args
from tests.support.flags import replace_flags
from tests.support.paths import ROOT


def make_args(models: Path, folder: Path, **changes: Any) -> Args:
    args = Args(
        benchmark="toy",
        piref_model=str(models / "policy"),
        classifier_ckpt_path=str(models / "value_model"),
        output_path=folder / "records.jsonl",
        num_blocks=4,
        num_repetitions=2,
        block_size=8,
        max_length=32,
        sampling=Sampling(1.0, 1.0),
        max_problems=3,
        engine_flags=EngineFlags("hf", attention_impl="sdpa"),
    )
    return replace_flags(args, **changes)


def as_command(args: Args) -> list[str]:
    flags = [
        f"--{name}" if single is True else f"--{name}={single}"
        for name, value in as_json(args).items()
        for single in (value if isinstance(value, list) else (value,))
        if single is not None and single is not False
    ]
    return [sys.executable, str(ROOT / "inference_eval.py"), *flags]


def responses(path: Path) -> dict[tuple[str, int], list[tuple[str, int]]]:
    return {
        record.key: [(response.text, response.num_tokens) for response in record.responses]
        for record in read_records(path)
    }


def request(
    prefix_ids: list[int],
    n: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 8,
    stop: tuple[int, ...] = (290,),
) -> tuple[Expansion, Sampling]:
    """What an engine's `generate` takes; the path needs no name."""
    expansion = Expansion(0, prefix_ids, n, max_new_tokens, stop, seed)
    return expansion, Sampling(temperature, top_p)


def keys(path: Path) -> list[tuple[str, int]]:
    return [(record.problem_id, record.repetition) for record in read_records(path)]


PLAIN = {"scorer": "none", "classifier_ckpt_path": "/absent"}
"""Flags of plain sampling."""


def without_timing(path: Path) -> list[Record]:
    """Sorted records without times, and without what a scorer's cache gave: that depends on the
    searches beside this one."""
    return [
        replace(
            record,
            cost=SearchCost(record.cost.tokens_generated, 0.0, record.cost.contexts_generated),
        )
        for record in sorted(read_records(path), key=lambda record: record.key)
    ]


def without_values(record: Record) -> Record:
    return replace(
        record,
        responses=[replace(response, value=0.0) for response in record.responses],
        tree=[replace(node, value=0.0) for node in record.tree],
    )


def assert_same_searches(path: Path, other: Path) -> None:
    """Equal, values to rounding: a near-tie of float32 must not fail at a decimal's border."""
    ours, theirs = without_timing(path), without_timing(other)
    assert list(map(without_values, ours)) == list(map(without_values, theirs))
    for record, expected in zip(ours, theirs, strict=True):
        assert [node.value for node in record.tree] == pytest.approx(
            [node.value for node in expected.tree], abs=1e-5
        )
