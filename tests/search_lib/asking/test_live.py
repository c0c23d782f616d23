"""What is shown of a tree while it grows."""

import random
from collections import Counter

import pytest

from search_lib.asking.live import LiveTree
from search_lib.strategies import strategy_factory
from tests.support.fake_searches import LIMITS, PROMPT, block_of, sample_without_ties

MAX_LENGTH = LIMITS.max_length


class Follower:
    """Runs a search step by step, with a tree that follows it."""

    def __init__(self, search_type, seed=0, num_blocks=4, sample=sample_without_ties):
        self.search = strategy_factory(search_type, num_blocks, LIMITS)(PROMPT, seed)
        self.changes = 0
        self.sample = sample
        self.tree = LiveTree(0, self.search, MAX_LENGTH, self._count)
        self.waiting = []
        self.ask()

    def _count(self):
        self.changes += 1

    def ask(self):
        for expansion in self.search.ask():
            self.tree.asked(expansion)
            self.waiting.append(expansion)

    def answer(self, place=0):
        expansion = self.waiting.pop(place)
        blocks, values = self.sample(expansion)
        self.search.tell(expansion.path_id, blocks, values)
        self.tree.told(expansion.path_id, blocks, None)
        if not self.search.done:
            self.ask()

    def states(self):
        return [path.state for path in self.tree.paths()]


def test_nothing_is_shown_before_the_first_answer():
    follower = Follower("beam2")
    assert follower.tree.paths() == []
    assert follower.tree.has_begun


def test_paths_of_a_round_wait_for_the_other_ones():
    follower = Follower("beam2")
    follower.answer()
    assert len(follower.waiting) == 1
    assert set(follower.states()) <= {"waiting", "finished"}


@pytest.mark.parametrize("search_type", ["beam2", "dvts2", "bon", "particles"])
@pytest.mark.parametrize("seed", range(5))
def test_running_paths_are_those_whose_next_block_is_asked_for(search_type, seed):
    follower, draw = Follower(search_type, seed), random.Random(seed)
    while not follower.search.done:
        follower.answer(draw.randrange(len(follower.waiting)))
        asked = {tuple(expansion.prefix_ids[len(PROMPT) :]) for expansion in follower.waiting}
        for path in follower.tree.paths():
            ids = tuple(follower.tree.token_ids(path.node))
            assert (path.state == "running") == (ids in asked and not follower.search.done)


ROUNDS = ["beam2", "dvts2", "lookahead2", "particles", "prune2", "reject50", "adaptive2"]


@pytest.mark.parametrize("search_type", ROUNDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_path_that_was_dropped_never_comes_back(search_type, seed):
    follower, draw, dropped = Follower(search_type, seed, 8), random.Random(seed), set()
    while not follower.search.done:
        follower.answer(draw.randrange(len(follower.waiting)))
        states = {path.node: path.state for path in follower.tree.paths()}
        assert {states.get(node, "dropped") for node in dropped} <= {"dropped"}
        dropped |= {node for node, state in states.items() if state == "dropped"}
    follower.tree.finish()
    assert dropped
    assert dropped.isdisjoint(response.node for response in follower.search.result())


@pytest.mark.parametrize("search_type", ["beam2", "dvts2", "particles", "prune2", "reject50"])
@pytest.mark.parametrize("seed", range(3))
def test_a_finished_path_that_the_search_does_not_keep_is_dropped(search_type, seed):
    follower, finished = Follower(search_type, seed, 8), set()
    while not follower.search.done:
        follower.answer()
        paths = follower.tree.paths()
        finished |= {path.node for path in paths if path.state == "finished"}
    assert finished == {response.node for response in follower.search.result()}


def alike(expansion):
    """Blocks of the same tokens and value."""
    return [block_of([1] * expansion.max_new_tokens)] * expansion.n, [0.5] * expansion.n


def test_of_paths_of_the_same_tokens_as_many_run_as_are_continued():
    follower = Follower("beam2", num_blocks=8, sample=alike)
    for _ in range(4):
        follower.answer()
    assert Counter(follower.states()) == {"running": 4, "dropped": 4}
    follower.answer()
    assert Counter(follower.states()) == {"running": 3, "waiting": 1, "dropped": 4}


def test_at_its_end_a_tree_has_finished_its_responses_and_dropped_the_rest():
    follower = Follower("beam2", num_blocks=8)
    while not follower.search.done:
        follower.answer()
    follower.tree.finish()
    finished = {path.node for path in follower.tree.paths() if path.state == "finished"}
    assert finished == {response.node for response in follower.search.result()}
    assert set(follower.states()) == {"finished", "dropped"}


def test_tokens_of_a_path_are_those_of_its_response():
    follower = Follower("beam2")
    while not follower.search.done:
        follower.answer()
    for response in follower.search.result():
        assert follower.tree.token_ids(response.node) == response.token_ids


def test_every_answer_and_the_end_are_a_change():
    follower, answers = Follower("bon"), 0
    while not follower.search.done:
        follower.answer()
        answers += 1
    follower.tree.finish()
    assert follower.changes == answers + 1


def test_tokens_count_what_was_dropped_too():
    follower = Follower("beam2")
    while not follower.search.done:
        follower.answer()
    assert follower.tree.num_tokens == sum(node.num_tokens for node in follower.search.nodes)
