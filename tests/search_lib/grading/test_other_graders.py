"""Pairs from the public tests and examples of other graders, with their verdicts and ours.

A line of `other_graders.jsonl` has the grader, the pair and their verdict (`theirs`). Where ours is
the opposite one, `why` gives the reason; docs/grading.md counts them.
"""

import json
from pathlib import Path

import pytest

from search_lib.grading import Grader

PAIRS = [
    json.loads(line)
    for line in (Path(__file__).parent / "other_graders.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], bool]:
    """All verdicts, from one call: a few pairs need a worker."""
    pairs = [(pair["gold"], pair["answer"]) for pair in PAIRS]
    with Grader(time_limit_s=10.0) as grader:
        return dict(zip(pairs, grader.equivalent(pairs), strict=True))


@pytest.mark.parametrize("name", sorted({pair["grader"] for pair in PAIRS}))
def test_verdicts_on_the_pairs_of(name: str, verdicts: dict[tuple[str, str], bool]) -> None:
    of_grader = [pair for pair in PAIRS if pair["grader"] == name]
    ours = [verdicts[pair["gold"], pair["answer"]] for pair in of_grader]
    assert ours == [pair["theirs"] != ("why" in pair) for pair in of_grader]
