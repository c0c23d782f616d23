"""The value after every token of a search that saved none, from its blocks and a value model."""

from collections import defaultdict

import numpy as np
from tqdm import tqdm

from classifier_lib.loading import load_value_model
from classifier_lib.scoring import ScoringRequest, ValueScorer, batch_tokens
from run_lib.commands import InputError
from search_lib.results.blocks import SearchBlocks


class TreeValues:
    """Scores the trees of searches with a value model; every token of a tree is computed once.

    Args:
        model: Folder or Hub id of the value model.

    Attributes:
        num_trees: Trees that were scored.
        largest_difference: Between the values that the searches had at the ends of blocks and those
            of this model; None if they had none.

    Raises:
        ValueError: As `load_value_model` does.
    """

    def __init__(self, model: str):
        self._name = model
        classifier = load_value_model(model)
        self._config = classifier.config
        self._values = ValueScorer(classifier, batch_tokens(classifier.device), token_values=True)
        self.num_trees = 0
        self.largest_difference: float | None = None
        self._bar = tqdm(unit="tree", desc="values", disable=None)

    def of(self, search: SearchBlocks) -> list[np.ndarray]:
        """Returns P(correct) after each token of each block, float32 [tokens of the block].

        Raises:
            InputError: If the model doesn't know the tokens, or reads fewer than a path has.
        """
        self._check(search)
        by_parent: dict[int | None, list[int]] = defaultdict(list)
        for index, block in enumerate(search.blocks):
            by_parent[block.node.parent].append(index)
        values: dict[int, np.ndarray] = {}
        ready: list[int | None] = [None]
        while ready:  # a round: the blocks whose parents have their states in the cache
            groups = [(parent, by_parent[parent]) for parent in ready if parent in by_parent]
            requests = [
                ScoringRequest(
                    [*search.prompt_ids, *search.response_ids(parent).tolist()],
                    [search.blocks[index].token_ids.tolist() for index in children],
                    [index not in by_parent for index in children],
                )
                for parent, children in groups
            ]
            for (_, children), scores in zip(groups, self._values.score(requests), strict=True):
                assert scores.token_values is not None  # asked for
                values.update(zip(children, scores.token_values, strict=True))
            ready = [index for _, children in groups for index in children]
        self.num_trees += 1
        self._bar.update()
        for index, block in enumerate(search.blocks):
            if block.node.value is not None:
                difference = abs(block.node.value - float(values[index][-1]))
                self.largest_difference = max(self.largest_difference or 0.0, difference)
        return [values[index] for index in range(len(search.blocks))]

    def _check(self, search: SearchBlocks) -> None:
        """Raises InputError unless the model can read every path."""
        largest = max(*search.prompt_ids, *(int(one.token_ids.max()) for one in search.blocks))
        if largest >= self._config.vocab_size:
            raise InputError(
                f"{self._name} knows {self._config.vocab_size} tokens, and a search has token "
                f"{largest}: it is the value model of another policy"
            )
        lengths: list[int] = []  # a parent stands before its children
        for block in search.blocks:
            before = len(search.prompt_ids) if (at := block.node.parent) is None else lengths[at]
            lengths.append(before + len(block.token_ids))
        if max(lengths) > self._config.max_position_embeddings:
            raise InputError(
                f"{self._name} reads {self._config.max_position_embeddings} tokens, and a response "
                f"with its prompt has {max(lengths)}"
            )

    def close(self) -> str:
        """Ends the bar on the terminal, and says how far the values are from those of searches."""
        self._bar.close()
        if not self.num_trees:
            return f"{self._name}: no blocks lacked the values of their tokens"
        own = "the searches had no values"
        if self.largest_difference is not None:
            own = f"at the ends of blocks within {self.largest_difference:.2g} of the searches'"
        return f"{self._name}: values of tokens of {self.num_trees} trees; {own}"
