"""Trees as the page draws them: what became of each block, and where a right path was pruned."""

from dataclasses import replace

import numpy as np
import pytest

from search_lib.results.page.trees import (
    DROPPED,
    FINISHED,
    KEPT,
    LOOKAHEAD,
    TRUNCATED,
    SearchTree,
    layout,
    path_to,
    right_path_pruned,
)
from tests.support.search_trees import record_of

# Two beams of two: block 0 and 2 go on; of their blocks, 4 is right, 7 is wrong.
PARENTS = [None, None, None, None, 0, 0, 2, 2]


def tree_of(record, max_length=None):
    correct = [response.answer == "1" for response in record.responses]
    return SearchTree.of(record, correct, max_length)


def test_rounds_and_what_became_of_each_block():
    tree = tree_of(record_of(PARENTS, {4: "1", 7: "2"}))
    assert tree.rounds == [0, 0, 0, 0, 1, 1, 1, 1]
    ends = [KEPT | FINISHED, DROPPED, DROPPED, KEPT | FINISHED]
    assert tree.states == [KEPT, DROPPED, KEPT, DROPPED, *ends]
    assert (tree.right, tree.wrong) == ({0, 4}, {2, 7})


def test_blocks_at_the_length_limit_are_truncated():
    record = record_of(PARENTS, {4: "1", 7: None})
    nodes = [replace(node, finish_reason="length") for node in record.tree]
    responses = [replace(response, finished=False) for response in record.responses]
    states = tree_of(replace(record, tree=nodes, responses=responses)).states
    assert states[4:] == [KEPT | TRUNCATED, DROPPED, DROPPED, KEPT | TRUNCATED]
    # With the limit known, also those that were dropped.
    states = tree_of(replace(record, tree=nodes), max_length=20).states
    assert states[:4] == [KEPT, DROPPED, KEPT, DROPPED]
    assert [bool(state & TRUNCATED) for state in states[4:]] == [True] * 4


def test_a_lookahead_is_neither_kept_nor_dropped_and_keeps_nothing():
    # Blocks 0 and 1 of the prompt have a lookahead each, 2 and 3; block 1 is dropped.
    record = record_of([None, None, 0, 1, 0, 0], {4: "1"})
    nodes = list(record.tree)
    for index in (2, 3):
        nodes[index] = replace(nodes[index], finish_reason="lookahead")
    tree = tree_of(replace(record, tree=nodes), max_length=20)
    rest = [KEPT | FINISHED, DROPPED | TRUNCATED]
    assert tree.states == [KEPT, DROPPED, LOOKAHEAD, LOOKAHEAD, *rest]
    assert tree.dropped == [1, 5]


def test_a_particle_with_several_continuations_is_kept_once_and_ends_several_responses():
    record = record_of([None, None, 0, 0], {2: "1", 3: "2"})
    twice = replace(record, responses=[*record.responses, record.responses[0]])
    tree = tree_of(twice)
    assert tree.states == [KEPT, DROPPED, KEPT | FINISHED, KEPT | FINISHED]
    assert (tree.right, tree.wrong) == ({0, 2}, {3})


def test_a_sibling_of_a_right_block_was_dropped_for_a_wrong_path():
    # Not blocks 1 and 3, which continue the prompt alone.
    assert right_path_pruned(tree_of(record_of(PARENTS, {4: "1", 7: "2"}))) == 5


@pytest.mark.parametrize("answers", [{4: "1", 7: "1"}, {4: "2", 7: "2"}, {4: "2", 7: None}])
def test_nothing_was_lost_where_all_is_right_or_nothing(answers):
    assert right_path_pruned(tree_of(record_of(PARENTS, answers))) is None


def test_a_block_of_the_same_text_as_a_right_one_counts():
    tree = tree_of(record_of(PARENTS, {4: "1", 7: "2"}))
    assert right_path_pruned(tree, ["x", "y", "z", "x", "p", "q", "r", "s"]) == 3
    assert right_path_pruned(tree, ["x", "y", "z", "w", "p", "q", "r", "s"]) == 5


def test_the_same_text_elsewhere_makes_siblings():
    # Two blocks of one text go on; the right one under the first, a dropped one under the second.
    parents = [None, None, None, 0, 1, 1, 2]
    tree = tree_of(record_of(parents, {3: "1", 4: "2", 6: "2"}))
    assert right_path_pruned(tree) is None
    assert right_path_pruned(tree, ["x", "x", "z", "p", "q", "r", "s"]) == 5


def brute_force(record, texts):
    """The definition as it is said, over whole paths."""

    def words(node):
        return [texts[index] for index in path_to(record.tree, node)]

    ends = {response.node for response in record.responses}
    right = [r.node for r in record.responses if r.answer == "1"]
    wrong = [r.node for r in record.responses if r.answer != "1"]
    on_right = {index for node in right for index in path_to(record.tree, node)}
    found = []
    for index in range(len(record.tree)):
        if index in ends or any(other.parent == index for other in record.tree):
            continue
        path = words(index)
        goes_right = False
        for end in right:
            other = words(end)
            same_block = other[: len(path)] == path
            same_before = (
                len(path) > 1 and len(other) >= len(path) and other[: len(path) - 1] == path[:-1]
            )
            goes_right |= same_block or same_before
        loses = any(
            len(path_to(record.tree, end)) >= len(path)
            and path_to(record.tree, end)[len(path) - 1] not in on_right
            for end in wrong
        )
        if goes_right and loses:
            found.append((len(path), index))
    return min(found)[1] if found else None


def random_record(rng):
    """A random tree: every block may go on, and leaves may be responses."""
    parents: list[int | None] = [None] * int(rng.integers(1, 4))
    while len(parents) < rng.integers(3, 16):
        parents.append(int(rng.integers(len(parents))))
    leaves = [index for index in range(len(parents)) if index not in parents]
    chosen = [index for index in leaves if rng.random() < 0.5] or leaves[:1]
    return record_of(parents, {index: str(rng.integers(1, 3)) for index in chosen})


def test_in_subtrees_a_wrong_path_takes_the_place_of_its_siblings_alone():
    # Blocks 4 and 7 end two subtrees, right and wrong; 5 lost to 4.
    tree = tree_of(record_of(PARENTS, {4: "1", 7: "2"}))
    assert right_path_pruned(tree, paths_compete=False) is None
    # Block 6 lost to 7, and its path has the text of the right one.
    texts = ["x", "y", "x", "w", "p", "q", "p", "s"]
    assert right_path_pruned(tree, texts, paths_compete=False) == 6


def test_right_path_pruned_is_what_brute_force_finds():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        record = random_record(rng)
        texts = [str(rng.integers(2)) for _ in record.tree]
        tree = tree_of(record)
        expected = brute_force(record, texts), brute_force(record, range(len(record.tree)))
        assert (right_path_pruned(tree, texts), right_path_pruned(tree)) == expected
        found.append(expected)
    # Each case is there: found with and without texts, and only with them.
    assert len({(a is not None, b is not None) for a, b in found}) >= 3


def test_no_lines_of_the_tree_cross():
    rng = np.random.default_rng(1)
    for _ in range(50):
        tree = tree_of(random_record(rng))
        rows = layout(tree)
        places = list(zip(tree.rounds, rows, strict=True))
        assert len(set(places)) == len(places)
        lines = [
            (number, rows[node.parent], row)
            for (number, row), node in zip(places, tree.nodes, strict=True)
            if node.parent is not None
        ]
        for number, start, end in lines:
            for other_number, other_start, other_end in lines:
                assert not (number == other_number and start < other_start and end > other_end)
