"""The tree search of DVO against a naive implementation, and on trees solved by hand."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from run_lib.commands import InputError
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, StepNode, TreeSettings

END, RIGHT, WRONG, DELIMITER = 9, 8, 7, 6
LIMITS = Limits(max_length=40, block_size=4, stop_token_ids=(END,))
PROMPT = [1, 2, 3]

Steps = list[tuple[Block, float | None]]
Policy = Callable[[Expansion], Steps]


def step(*tokens: int, logprobs: list[float] | None = None) -> tuple[Block, float | None]:
    """A step and the judge's word: RIGHT and WRONG are answers, END ends the response."""
    value = 1.0 if RIGHT in tokens else 0.0 if WRONG in tokens else None
    reason = "stop" if tokens[-1] == END else "step" if tokens[-1] == DELIMITER else "length"
    return Block(list(tokens), reason, logprobs), value


def draw_steps(expansion: Expansion) -> Steps:
    """A policy of few steps, so that duplicates are frequent; it depends on the seed alone."""
    rng = random.Random(expansion.seed)
    steps = []
    for _ in range(expansion.n):
        kind = rng.random()
        tokens = [rng.randrange(3)][: expansion.max_new_tokens - 1]
        tokens += [RIGHT if kind < 0.1 else WRONG if kind < 0.2 else END if kind < 0.3 else 6]
        logprobs = [-rng.random() for _ in tokens]
        steps.append(step(*tokens, logprobs=logprobs if expansion.logprobs else None))
    return steps


def grow(
    policy: Policy = draw_steps, seed: int = 0, limits: Limits = LIMITS, **settings: Any
) -> MonteCarloTreeSearch:
    published = {"duplicates": "drop", "backup": "mean"}
    search = MonteCarloTreeSearch(PROMPT, limits, seed, TreeSettings(**published | settings))
    while not search.done:
        (expansion,) = search.ask()
        assert search.ask() == []
        steps = policy(expansion)
        search.tell(expansion.path_id, [s[0] for s in steps], [s[1] for s in steps])
    return search


@dataclass
class NaiveNode:
    """A node that computes all it needs from what is below it, every time."""

    order: int
    path: list[int]
    depth: int = 0
    count: int = 1
    prior: float = 1.0
    reward: int | None = None
    children: "list[NaiveNode] | None" = None

    def terminals(self) -> "list[NaiveNode]":
        if self.reward is not None:
            return [self]
        return [leaf for child in self.children or [] for leaf in child.terminals()]

    def visits(self) -> int:
        return len(self.terminals())

    def value(self, how: TreeSettings) -> float:
        rewards = [leaf.reward for leaf in self.terminals()]
        if not rewards:
            return 0.0
        if self.reward is not None or (how.backup, how.duplicates) == ("mean", "drop"):
            return sum(rewards) / len(rewards)
        # Every draw of a step that leads to a terminal, on its own.
        draws = [
            child.value(how)
            for child in self.children
            for _ in range(child.count)
            if child.visits()
        ]
        if how.backup == "mean":
            return sum(draws) / len(draws)
        return how.beta * math.log(sum(math.exp(value / how.beta) for value in draws) / len(draws))

    def closed(self) -> bool:
        if self.children is None:
            return self.reward is not None
        return all(child.closed() for child in self.children)


def grow_naively(seed: int, how: TreeSettings) -> list[NaiveNode]:
    nodes = [NaiveNode(0, [])]
    for _ in range(how.iterations):
        if nodes[0].closed():
            break
        node = nodes[0]
        while node.children is not None:
            best = -math.inf
            for child in [child for child in node.children if not child.closed()]:
                bonus = how.c_puct * math.sqrt(node.visits()) * child.prior / (1 + child.visits())
                if child.value(how) + bonus > best + 1e-12:
                    best, chosen = child.value(how) + bonus, child
            node = chosen
        node.children = []
        room = min(LIMITS.block_size, LIMITS.max_length - len(node.path))
        drawn: dict[tuple[int, ...], NaiveNode] = {}
        for block, value in draw_steps(
            Expansion(0, [], how.breadth, room, (), derive_seed(seed, node.order), True)
        ):
            tokens = tuple(block.token_ids)
            if tokens in drawn:
                drawn[tokens].count += how.duplicates == "count"
                continue
            child = NaiveNode(len(nodes), node.path + block.token_ids, node.depth + 1)
            if how.prior == "likelihood":
                child.prior = math.exp(sum(block.logprobs) / len(block.logprobs))
            if value is not None:
                child.reward = 1 if value else -1
            elif tokens[-1] == END or child.depth > how.depth or len(child.path) >= 40:
                child.reward = -1
            drawn[tokens] = child
            node.children.append(child)
            nodes.append(child)
    return nodes


@pytest.mark.parametrize("backup", ["mean", "soft"])
@pytest.mark.parametrize("duplicates", ["drop", "count"])
@pytest.mark.parametrize("prior", ["uniform", "likelihood"])
@pytest.mark.parametrize("seed", range(4))
def test_a_tree_equals_that_of_a_naive_implementation(seed, prior, duplicates, backup):
    how = TreeSettings(40, 4, 3 + seed, 1.5, prior, duplicates, backup, 0.5)
    search = grow(seed=seed, **vars(how))
    expected = grow_naively(seed, how)
    assert [search.path_ids(index) for index in range(len(search.nodes))] == [
        node.path for node in expected
    ]
    assert [node.visits for node in search.nodes] == [node.visits() for node in expected]
    assert [node.value for node in search.nodes] == pytest.approx(
        [node.value(how) for node in expected], abs=1e-9
    )
    assert [node.closed for node in search.nodes] == [node.closed() for node in expected]


def in_turn(*steps: tuple[Block, float | None]) -> Policy:
    """A policy that takes the same steps in the same order after any prefix."""
    return lambda expansion: [steps[number % len(steps)] for number in range(expansion.n)]


def terminals_below(search: MonteCarloTreeSearch, index: int) -> list[StepNode]:
    return [
        node
        for other, node in enumerate(search.nodes)
        if node.terminal is not None and index in search.path(other)
    ]


def test_a_closed_tree_has_the_mean_over_distinct_terminals_everywhere():
    search = grow(in_turn(step(0, 6), step(1, 6), step(RIGHT), step(WRONG)), breadth=4, depth=3)
    assert search.nodes[0].closed
    assert search.iterations == 1 + 2 + 4 + 8  # no node twice
    for index, node in enumerate(search.nodes):
        rewards = [leaf.reward for leaf in terminals_below(search, index)]
        assert (node.visits, node.value) == (len(rewards), sum(rewards) / len(rewards))


def test_the_soft_value_of_a_closed_tree_is_that_of_the_bellman_equation():
    search = grow(
        in_turn(step(0, 6), step(RIGHT), step(WRONG)), breadth=3, depth=2, backup="soft", beta=0.5
    )
    right, wrong, below = math.exp(2), math.exp(-2), math.exp(-2)  # the third level is too deep
    for _ in range(3):
        below = (below + right + wrong) / 3
    assert search.nodes[0].value == pytest.approx(0.5 * math.log(below))


def test_counted_duplicates_are_nearer_to_the_value_of_the_policy():
    policy = in_turn(*[step(RIGHT)] * 9, step(WRONG))
    true_value = 0.9 - 0.1
    values = {
        how: grow(policy, breadth=10, duplicates=how).nodes[0].value for how in ("drop", "count")
    }
    assert values == {"drop": 0.0, "count": pytest.approx(true_value)}


def test_counted_duplicates_weigh_a_step_by_its_draws_however_deep_its_terminals_lie():
    """Three quarters of the draws end at once; the others after one more step, always the same."""

    def policy(expansion: Expansion) -> Steps:
        deep = len(expansion.prefix_ids) > len(PROMPT)
        return [step(RIGHT)] * 4 if deep else [*[step(WRONG)] * 3, step(0, 6)]

    search = grow(policy, breadth=4, duplicates="count")
    assert search.nodes[0].value == 0.75 * -1 + 0.25 * 1


@pytest.mark.parametrize(
    ("steps", "limits", "terminal", "reward"),
    [
        ([step(0, RIGHT)], LIMITS, "answer", 1.0),
        ([step(0, WRONG, END)], LIMITS, "answer", -1.0),
        ([step(0, END)], LIMITS, "no_answer", -1.0),
        ([step(0, 6)], LIMITS, "too_deep", -1.0),
        ([step(0, 0, 0, 0)], replace(LIMITS, max_length=8), "too_long", -1.0),
        # An answer counts where nothing else would.
        ([step(0, RIGHT, 0, 0)], replace(LIMITS, max_length=4), "answer", 1.0),
    ],
)
def test_why_a_path_ends(steps, limits, terminal, reward):
    search = grow(in_turn(*steps), limits=limits, breadth=1, depth=3)
    assert [(node.terminal, node.reward) for node in search.nodes if node.terminal] == [
        (terminal, reward)
    ]


def test_an_answer_one_step_below_the_deepest_still_counts():
    def policy(expansion: Expansion) -> Steps:
        return [step(RIGHT) if len(expansion.prefix_ids) == len(PROMPT) + 8 else step(0, 6)]

    search = grow(policy, breadth=1, depth=4)
    assert (search.nodes[-1].depth, search.nodes[-1].terminal) == (5, "answer")


def test_a_step_at_its_length_limit_is_continued():
    search = grow(in_turn(step(0, 0, 0, 0)), breadth=1, depth=2)
    assert [node.depth for node in search.nodes] == [0, 1, 2, 3]


def test_a_tree_ends_with_its_iterations():
    search = grow(in_turn(step(0, 6)), breadth=1, depth=20, iterations=7)
    assert (search.iterations, search.nodes[0].closed, len(search.nodes)) == (7, False, 8)


def test_a_response_that_ends_is_another_step_than_one_that_goes_on():
    search = MonteCarloTreeSearch(PROMPT, LIMITS, 0, TreeSettings(breadth=2), lambda block: "same")
    (expansion,) = search.ask()
    search.tell(expansion.path_id, [step(0, END)[0], step(0, 6)[0]], [None, None])
    assert [node.terminal for node in search.nodes[1:]] == ["no_answer", None]


@pytest.mark.parametrize("prior", ["uniform", "likelihood"])
def test_log_probabilities_are_asked_for_where_they_weigh(prior):
    search = MonteCarloTreeSearch(PROMPT, LIMITS, 0, TreeSettings(prior=prior))
    assert search.ask()[0].logprobs == (prior == "likelihood")


@pytest.mark.parametrize(
    ("path_id", "blocks", "values", "message"),
    [
        (1, [Block([0], "step")], [None], "path 1 was not asked for"),
        (0, [], [], "asked for 1 blocks"),
        (0, [Block([0] * 5, "step")], [None], "asked for 1 to 4 tokens"),
        (0, [Block([0], "step")], [0.5], "not a judge's 1, 0 or None"),
    ],
)
def test_answers_that_do_not_fit_are_refused(path_id, blocks, values, message):
    search = MonteCarloTreeSearch(PROMPT, LIMITS, 0, TreeSettings(breadth=1))
    search.ask()
    with pytest.raises(ValueError, match=message):
        search.tell(path_id, blocks, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"breadth": 0}, "--breadth must be at least 1"),
        ({"depth": 0}, "--depth must be at least 1"),
        ({"c_puct": -1.0}, "--c_puct must be finite and not negative"),
        ({"c_puct": math.inf}, "--c_puct must be finite"),
        ({"beta": 0.0}, "--beta must be positive"),
        ({"beta": math.nan}, "--beta must be positive"),
    ],
)
def test_settings_that_no_tree_can_have_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TreeSettings(**changes).check()
