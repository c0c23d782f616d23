"""Paths drawn from trees, and their credits."""

from collections import Counter

import numpy as np
import pytest

from dvo_lib.paths import DrawnPath, draw_paths, path_credits
from dvo_lib.trees import RecordedStep, TreeRecord
from search_lib.results.cost import SearchCost


def node(parent, visits, value, terminal=None, reward=None):
    return RecordedStep(parent, [1], "x", 1, visits, value, 1.0, terminal, reward)


def make_tree(nodes: list[RecordedStep]) -> TreeRecord:
    return TreeRecord("p", "question", "7", 0, [1, 2], 1, nodes, SearchCost(1, 0.1))


def answer(parent: int, reward: float) -> RecordedStep:
    return node(parent, 1, reward, "answer", reward)


# The prompt has the step 1 with the answers 3 (right) and 4 (wrong), and the answer 2 (right); and
# step 1 has a failure, 5.
TREE = make_tree(
    [
        node(None, 4, 0.0),
        node(0, 3, -1 / 3),
        answer(0, 1.0),
        answer(1, 1.0),
        answer(1, -1.0),
        node(1, 1, -1.0, "too_deep", -1.0),
    ]
)


def draw(tree: TreeRecord, seed: int = 0, **settings) -> list[DrawnPath]:
    return draw_paths(tree, np.random.default_rng(seed), **settings)


def test_a_path_has_the_steps_and_their_credits():
    by_leaf = {path.nodes[-1]: path for path in draw(TREE)}
    assert by_leaf == {
        2: DrawnPath([2], [1.0], True),
        3: DrawnPath([1, 3], [pytest.approx(-1 / 3), pytest.approx(4 / 3)], True),
        4: DrawnPath([1, 4], [pytest.approx(-1 / 3), pytest.approx(-2 / 3)], False),
        5: DrawnPath([1, 5], [pytest.approx(-1 / 3), pytest.approx(-2 / 3)], False),
    }


def test_failures_without_an_answer_can_be_left_out_as_published():
    paths = draw(TREE, wrong_paths="answers")
    assert {path.nodes[-1] for path in paths} == {2, 3, 4}


def test_credits_add_up_to_the_reward_minus_the_value_of_the_prompt():
    values = [0.25, -0.5, 0.75, 0.1]
    for reward in (1.0, -1.0):
        assert sum(path_credits(values, reward)) == pytest.approx(reward - 0.25)


def test_a_tree_without_a_right_answer_gives_nothing():
    assert draw(make_tree([node(None, 2, -1.0), answer(0, -1.0), answer(0, -1.0)])) == []


def test_a_tree_without_a_wrong_answer_gives_its_right_ones():
    (path,) = draw(make_tree([node(None, 1, 1.0), answer(0, 1.0)]))
    assert path.correct


def test_each_side_has_its_own_limit():
    leaves = [answer(0, 1.0)] * 6 + [answer(0, -1.0)] * 3
    paths = draw(make_tree([node(None, 9, 1 / 3), *leaves]), per_side=4)
    assert Counter(path.correct for path in paths) == {True: 4, False: 3}
    assert len({path.nodes[-1] for path in paths}) == 7


def test_a_path_is_drawn_as_often_as_the_visits_along_it_say():
    counts = Counter(
        path.nodes[-1] for seed in range(3000) for path in draw(TREE, seed, per_side=1)
    )
    # Visits along the path: 4 + 1 of leaf 2, 4 + 3 + 1 of leaf 3.
    assert counts[2] / 3000 == pytest.approx(5 / 13, abs=0.04)
    assert counts[2] + counts[3] == counts[4] + counts[5] == 3000


def test_paths_whose_values_rest_on_few_visits_are_left_out():
    assert [path.nodes for path in draw(TREE, min_visits=4)] == [[2]]


def test_the_same_seed_draws_the_same_paths():
    assert draw(TREE, 3, per_side=1) == draw(TREE, 3, per_side=1)
