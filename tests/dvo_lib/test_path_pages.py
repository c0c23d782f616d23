"""Paths of trees as the report shows them."""

import json
from dataclasses import asdict

import pytest

from dvo_lib.path_pages import load_paths, show_tree
from dvo_lib.trees import RecordedStep
from tests.support.trees import tree_of


def step(parent, value, reward=None):
    terminal = None if reward is None else "answer"
    return RecordedStep(parent, [1], f"to {value} {reward}", 1, 2, value, 1.0, terminal, reward)


def tree(last_reward):
    """The prompt, a step, and two last ones, of which the first is right."""
    nodes = [step(None, 0.25), step(0, 0.5), step(1, 1.0, 1.0), step(1, -1.0, last_reward)]
    return tree_of(nodes, f"id-{last_reward}", "Which?", [1])


def test_a_path_has_the_text_and_the_credit_of_each_step():
    shown = show_tree(tree(-1.0))
    assert (shown["id"], shown["reference"], shown["value"]) == ("id--1.0", "7", 0.25)
    right, wrong = shown["paths"]
    assert [path["right"] for path in (right, wrong)] == [True, False]
    first, last = wrong["steps"]
    assert first == {
        "text": "to 0.5 None", "credit": 0.25, "value": 0.5, "reward": None, "visits": 2
    }  # fmt: skip
    assert (last["credit"], last["value"], last["reward"]) == (-1.5, None, -1.0)


def test_trees_without_both_kinds_of_responses_are_left_out(tmp_path):
    path = tmp_path / "trees.jsonl"
    lines = [json.dumps(asdict(tree(reward))) for reward in (1.0, -1.0)]
    path.write_text("\n".join(lines))
    assert [shown["id"] for shown in load_paths(tmp_path)] == ["id--1.0"]
    path.write_text(lines[0])
    with pytest.raises(ValueError, match="no tree has a right and a wrong response"):
        load_paths(tmp_path)
