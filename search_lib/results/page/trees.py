"""The tree of a search as the page draws it: what became of each block, and where it went wrong."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from search_lib.results.records import Record
from search_lib.strategies.base import Node

KEPT, DROPPED, FINISHED, TRUNCATED, LOOKAHEAD = 1, 2, 4, 8, 16
"""Bits of a block's state: kept, dropped, or a lookahead; at its end finished, truncated, or
neither."""


@dataclass(frozen=True)
class SearchTree:
    """The blocks of one search.

    Attributes:
        nodes: Every block, parents before children.
        rounds: Round of each block: how many blocks its path has before it.
        states: State of each block, a sum of bits.
        right: Blocks on the path of a right response, its last one included.
        wrong: Blocks on the path of a wrong response, and of no right one.
    """

    nodes: Sequence[Node]
    rounds: list[int]
    states: list[int]
    right: frozenset[int]
    wrong: frozenset[int]

    @classmethod
    def of(cls, record: Record, correct: Sequence[bool], max_length: int | None) -> "SearchTree":
        """Finds out what became of each block.

        A block is kept if another continues it, or a response ends with it; else it was dropped.
        It is finished if the policy ended it, and truncated if the length limit did. A lookahead
        stood for nobody's choice: it is none of these, and does not keep the block before it.

        Args:
            record: The search.
            correct: Whether each of its responses is right.
            max_length: Most tokens of a response; None if it is not known.
        """
        nodes = record.tree
        rounds: list[int] = []
        lengths: list[int] = []
        for node in nodes:
            rounds.append(0 if node.parent is None else rounds[node.parent] + 1)
            before = 0 if node.parent is None else lengths[node.parent]
            lengths.append(before + node.num_tokens)
        ends = {response.node for response in record.responses}
        kept = {node.parent for node in nodes if node.finish_reason != "lookahead"} | ends
        unfinished = {response.node for response in record.responses if not response.finished}
        states = []
        for index, node in enumerate(nodes):
            if node.finish_reason == "lookahead":
                states.append(LOOKAHEAD)
                continue
            state = KEPT if index in kept else DROPPED
            if node.finish_reason == "stop":
                state |= FINISHED
            elif index in unfinished or (max_length is not None and lengths[index] >= max_length):
                state |= TRUNCATED
            states.append(state)
        right: set[int] = set()
        wrong: set[int] = set()
        for response, is_right in zip(record.responses, correct, strict=True):
            (right if is_right else wrong).update(path_to(nodes, response.node))
        return cls(nodes, rounds, states, frozenset(right), frozenset(wrong - right))

    @property
    def dropped(self) -> list[int]:
        """The dropped blocks, in order of rounds."""
        blocks = [index for index, state in enumerate(self.states) if state & DROPPED]
        return sorted(blocks, key=lambda index: (self.rounds[index], index))


def path_to(nodes: Sequence[Node], index: int) -> list[int]:
    """Returns the blocks from the prompt to a block, itself included."""
    path = []
    node: int | None = index
    while node is not None:
        path.append(node)
        node = nodes[node].parent
    return path[::-1]


def right_path_pruned(
    tree: SearchTree, texts: Sequence[Hashable] | None = None, paths_compete: bool = True
) -> int | None:
    """Returns the first dropped block that looks like a lost right path; None if there is none.

    What a dropped block would have led to is not known: nobody continued it. What is known is where
    the text before it led. So a dropped block counts if both hold:

    - *It was on a path to a right answer.* From the text that it continues, a right answer was
      reached by another block: by a sibling, or elsewhere in the tree, where another path has the
      same text up to there. Or a path with the same text up to the end of this very block reached
      one. The prompt alone is no such text: every block continues it.
    - *A wrong path was kept in its place.* In the same round a block was kept that led to wrong
      responses, and to no right one. Where paths don't compete, it must continue the same block.

    The first is the one of the earliest round, and in it the first in the tree. Answers are those
    of the search's responses: a tree without a right one has no such block, nor has one without a
    wrong one. Without texts, only blocks with the same parent count as having the same text before
    them, so that fewer blocks are found.

    Args:
        tree: The search.
        texts: Text or tokens of each block; None if they are not known.
        paths_compete: See `Traits`.
    """
    classes = _path_classes(tree.nodes, texts)
    right_paths = {classes[index] for index in tree.right}
    wrong_rounds = {tree.rounds[index] for index in tree.wrong}
    wrong_parents = {tree.nodes[index].parent for index in tree.wrong} - {None}
    parents = (tree.nodes[index].parent for index in tree.right)
    continued_right = {classes[parent] for parent in parents if parent is not None}
    for index in tree.dropped:
        parent = tree.nodes[index].parent
        went_right = classes[index] in right_paths or (
            parent is not None and classes[parent] in continued_right
        )
        is_replaced = (
            tree.rounds[index] in wrong_rounds if paths_compete else parent in wrong_parents
        )
        if went_right and is_replaced:
            return index
    return None


def _path_classes(nodes: Sequence[Node], texts: Sequence[Hashable] | None) -> list[int]:
    """Returns a number for each block's whole path: equal where the texts are."""
    numbers: dict[Hashable, int] = {}
    classes: list[int] = []
    for index, node in enumerate(nodes):
        before = None if node.parent is None else classes[node.parent]
        key = index if texts is None else (before, texts[index])
        classes.append(numbers.setdefault(key, len(numbers)))
    return classes


def layout(tree: SearchTree) -> list[int]:
    """Returns the row of each block within its round, so that no two lines cross.

    Children of higher parents are higher, and the children of one parent stand in their order.
    """
    rows = [0] * len(tree.nodes)
    by_round: dict[int, list[int]] = {}
    for index, number in enumerate(tree.rounds):
        by_round.setdefault(number, []).append(index)
    for number in sorted(by_round):
        of_round = sorted(by_round[number], key=lambda index: _parent_row(tree, rows, index))
        for row, index in enumerate(of_round):
            rows[index] = row
    return rows


def _parent_row(tree: SearchTree, rows: Sequence[int], index: int) -> int:
    parent = tree.nodes[index].parent
    return 0 if parent is None else rows[parent]
