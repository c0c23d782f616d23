"""Paths of a tree to train on, and the credit of their steps (DVO, sections 4.4 and 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dvo_lib.trees import TreeRecord

WrongPaths = Literal["all", "answers"]
"""Responses that count as incorrect ones: all failures, or those with a wrong answer."""


@dataclass(frozen=True)
class DrawnPath:
    """A response of a tree with the credit of each step.

    Attributes:
        nodes: Nodes from the first step to the last; the prompt is not among them.
        credits: Of each step, `V(s_t+1) + r - V(s_t)`; they add up to `reward - V(prompt)`.
        correct: Whether it has the right answer.
    """

    nodes: list[int]
    credits: list[float]
    correct: bool


def draw_paths(
    tree: TreeRecord,
    rng: np.random.Generator,
    per_side: int = 4,
    min_visits: int = 1,
    wrong_paths: WrongPaths = "all",
) -> list[DrawnPath]:
    """Draws responses of a tree, up to `per_side` correct and as many incorrect ones.

    They are drawn without replacement, each with probability proportional to the visits along its
    path, added up.

    Args:
        tree: The tree.
        rng: Source of the draws.
        per_side: Most paths of either kind.
        min_visits: A path is left out if a node before its last step has fewer visits: its value
            rests on too little.
        wrong_paths: Whether failures without an answer can be drawn; else, as published, they only
            stay in the values.

    Returns:
        The paths, correct ones first; none if no correct one was drawn.
    """
    leaves: dict[bool, list[int]] = {True: [], False: []}
    for index, node in enumerate(tree.nodes):
        if node.reward is None or (wrong_paths == "answers" and node.terminal != "answer"):
            continue
        inner = tree.path(index)[:-1]
        if all(tree.nodes[step].visits >= min_visits for step in inner):
            leaves[node.reward > 0].append(index)
    if not leaves[True]:
        return []
    drawn = [_draw(tree, rng, of_side, per_side) for of_side in leaves.values()]
    values = [node.value for node in tree.nodes]
    return [_with_credits(tree, leaf, values) for leaves in drawn for leaf in leaves]


def path_credits(values: Sequence[float], reward: float) -> list[float]:
    """Returns `V(s_t+1) + r - V(s_t)` of each step of a response.

    Args:
        values: Value of the state before each step, that of the prompt first. The state behind the
            last step has the value 0, and its step the reward.
        reward: Reward of the response.
    """
    after = [*values[1:], reward]
    return [later - before for before, later in zip(values, after, strict=True)]


def _draw(tree: TreeRecord, rng: np.random.Generator, leaves: list[int], most: int) -> list[int]:
    """Draws leaves without replacement, weighted by the visits along their paths."""
    if not leaves:
        return []
    visits = [sum(tree.nodes[step].visits for step in tree.path(leaf)) for leaf in leaves]
    weights = np.array(visits) / sum(visits)
    return rng.choice(leaves, min(most, len(leaves)), replace=False, p=weights).tolist()


def _with_credits(tree: TreeRecord, leaf: int, values: Sequence[float]) -> DrawnPath:
    path = tree.path(leaf)
    reward = tree.nodes[leaf].reward
    if reward is None:
        raise ValueError(f"node {leaf} is no terminal")
    credits = path_credits([values[node] for node in path[:-1]], reward)
    return DrawnPath(path[1:], credits, reward > 0)
