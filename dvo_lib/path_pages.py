"""Paths of trees with the credits of their steps, as the report shows them (`scripts.report`)."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dvo_lib.paths import DrawnPath, draw_paths
from dvo_lib.trees import TreeRecord, read_trees
from run_lib.seeds import derive_seed

MOST_TREES = 100
"""Trees that a page shows."""


def load_paths(folder: Path) -> list[dict[str, Any]]:
    """Returns the first trees of a folder that have a right and a wrong response, as JSON types.

    Args:
        folder: Output of `data_prep.dvo trees`, or a file of trees.

    Raises:
        InputError: At a line that is no tree.
        ValueError: If there are no trees, or none has paths to show; begins with the folder.
    """
    shown = list(islice(filter(None, map(show_tree, read_trees(folder))), MOST_TREES))
    if not shown:
        raise ValueError(f"{folder}: no tree has a right and a wrong response")
    return shown


def show_tree(tree: TreeRecord) -> dict[str, Any] | None:
    """Returns up to four right and four wrong paths of a tree, drawn as for training.

    None if it has not both.
    """
    paths = draw_paths(tree, np.random.default_rng(derive_seed(0, tree.problem_id)))
    if len({path.correct for path in paths}) < 2:
        return None
    return {
        "id": tree.problem_id,
        "question": tree.problem,
        "reference": tree.reference,
        "value": round(tree.nodes[0].value, 4),
        "paths": [{"right": path.correct, "steps": list(_steps(tree, path))} for path in paths],
    }


def _steps(tree: TreeRecord, path: DrawnPath) -> Iterable[dict[str, Any]]:
    for index, credit in zip(path.nodes, path.credits, strict=True):
        node = tree.nodes[index]
        yield {
            "text": node.text,
            "credit": round(credit, 4),
            # Behind the last step is nothing to be worth something: it has the reward.
            "value": None if node.reward is not None else round(node.value, 4),
            "reward": node.reward,
            "visits": node.visits,
        }
