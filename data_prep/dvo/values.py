"""Values of the states of trees by a value model, in the place of the trees' own (DVO, 4.4.2)."""

import math
from collections.abc import Sequence
from itertools import chain

import torch

from classifier_lib.modeling import ValueModel
from classifier_lib.scoring import ScoringRequest, ValueScorer
from data_prep.reports import BadRow
from dvo_lib.trees import TreeRecord
from run_lib.commands import InputError

TREES_TOGETHER = 32
"""Trees that are valued together: enough for full batches, few enough for the scorer's cache."""


class StateValues:
    """Reads a value model as V = 2 P(correct) - 1, which is in [-1, 1] as rewards are.

    Args:
        model: The value model.
        name: What the user calls it, for errors.
        max_batch_tokens: Tokens of one forward pass.
    """

    def __init__(self, model: ValueModel, name: str, max_batch_tokens: int):
        self._model = model
        self._name = name
        self._max_batch_tokens = max_batch_tokens

    def fault(self, tree: TreeRecord, paths: Sequence[Sequence[int]]) -> BadRow | None:
        """Returns why the states of some paths have no values; None if they have.

        Args:
            tree: The tree.
            paths: Nodes of each path, from the first step to the last.

        Raises:
            InputError: If the model's vocabulary lacks a token: then it is one for other tokens.
        """
        config = self._model.config
        ids = [tree.prompt_ids, *(tree.nodes[node].token_ids for path in paths for node in path)]
        largest = max(map(max, ids))
        if largest >= config.vocab_size:
            raise InputError(
                f"--classifier_ckpt_path {self._name} has a vocabulary of {config.vocab_size} "
                f"tokens, and the tree of {tree.problem_id} holds the token {largest}"
            )
        states = [path[-2] if len(path) > 1 else 0 for path in paths]
        longest = len(tree.prompt_ids) + max(len(_response(tree, state)) for state in states)
        if longest > config.max_position_embeddings:
            detail = f"{longest} tokens, more than {config.max_position_embeddings}"
            return BadRow(tree.problem_id, "too long for the value model", detail)
        return None

    def of(self, trees: Sequence[TreeRecord], states: Sequence[set[int]]) -> list[dict[int, float]]:
        """Returns for each tree the values of some of its nodes.

        Each token is computed once, unless the scorer's cache is full.

        Args:
            trees: The trees; their prompts have two tokens or more.
            states: Nodes of each tree, with all nodes above them.

        Raises:
            InputError: If the memory doesn't hold a forward pass.
        """
        values: list[dict[int, float]] = []
        for start in range(0, len(trees), TREES_TOGETHER):
            part = slice(start, start + TREES_TOGETHER)
            try:
                values += self._of_part(trees[part], states[part])
            except torch.OutOfMemoryError as error:
                raise InputError(
                    "out of memory: the same command with a smaller --max_batch_tokens (now "
                    f"{self._max_batch_tokens}) goes on"
                ) from error
        return values

    def _of_part(
        self, trees: Sequence[TreeRecord], states: Sequence[set[int]]
    ) -> list[dict[int, float]]:
        # A scorer for each part: what its cache holds, and so the last digits of a value, doesn't
        # depend on where a run was interrupted.
        scorer = ValueScorer(self._model, self._max_batch_tokens)
        values: list[dict[int, float]] = [{} for _ in trees]
        # Level by level, the prompts first: a step finds the states of the path that it continues.
        level = [(place, 0) for place in range(len(trees))]
        while level:
            requests = [_request(trees[place], node) for place, node in level]
            for (place, node), scores in zip(level, scorer.score(requests), strict=True):
                (value,) = scores.values
                if value is None or not math.isfinite(value):
                    raise InputError(
                        f"--classifier_ckpt_path {self._name} gives no finite value in the tree of "
                        f"{trees[place].problem_id}"
                    )
                values[place][node] = 2.0 * value - 1.0
            above = set(level)
            level = [
                (place, node)
                for place, nodes in enumerate(states)
                for node in sorted(nodes)
                if (place, trees[place].nodes[node].parent) in above
            ]
        return values


def _request(tree: TreeRecord, node: int) -> ScoringRequest:
    """Returns the request for the value at the end of a node; of the prompt at its last token."""
    ids = tree.prompt_ids + _response(tree, node)
    length = len(tree.nodes[node].token_ids) if node else 1
    return ScoringRequest(ids[:-length], [ids[-length:]])


def _response(tree: TreeRecord, node: int) -> list[int]:
    """Returns the tokens of the response up to the end of a node."""
    return list(chain.from_iterable(tree.nodes[step].token_ids for step in tree.path(node)[1:]))
