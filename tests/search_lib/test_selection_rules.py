"""Which paths each strategy goes on with, against small references and exact expectations."""

import itertools
import math
import random
import statistics
from collections import Counter

import numpy as np
import pytest

from run_lib.seeds import derive_seed
from search_lib.engines.base import Expansion
from search_lib.strategies import Limits, StrategySettings, strategy_factory
from search_lib.strategies.adaptive import AdaptiveBeams
from search_lib.strategies.lookahead import LookaheadBeams
from search_lib.strategies.particles import EntropicParticles, Particles, systematic_draw
from search_lib.strategies.prune import PruneOnce
from search_lib.strategies.reject import LowestRejected
from search_lib.strategies.rounds import Rounds
from search_lib.strategies.stochastic import StochasticBeams
from search_lib.strategies.weights import log_weights, normalized
from tests.support.fake_searches import (
    LIMITS,
    PROMPT,
    STOP,
    block_of,
    run,
    sample_blocks,
    sample_without_ties,
    tell_round,
)

SEEDS = range(8)


def strategy(search_type, seed, num_blocks=8, **settings):
    new = strategy_factory(search_type, num_blocks, LIMITS, settings=StrategySettings(**settings))
    return new(PROMPT, seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("search_type", "settings", "equal"),
    [
        ("lookahead2", {"lookahead": 0}, "beam2"),
        ("dvts8", {}, "bfs"),
        ("adaptive2", {"min_block_size": LIMITS.block_size}, "beam2"),
        ("stochastic2", {"value_temperature": 1e-9}, "beam2"),
    ],
)
def test_a_limit_of_the_strategy_is_a_beam_search(search_type, settings, equal, seed):
    search, expected = strategy(search_type, seed, **settings), strategy(equal, seed)
    responses = run(search, answer=sample_without_ties)
    assert responses == run(expected, answer=sample_without_ties)
    assert search.nodes == expected.nodes


@pytest.mark.parametrize("seed", SEEDS)
def test_rejecting_none_is_best_of_n_in_blocks(seed):
    expected = []
    for slot in range(8):
        path, own_seed = [], derive_seed(seed, 0, slot)
        while len(path) < LIMITS.max_length and STOP not in path:
            own = Expansion(0, [], 1, LIMITS.block_size, (STOP,), own_seed)
            (block,), _ = sample_blocks(own)
            path, own_seed = path + block.token_ids, derive_seed(own_seed, 0)
        expected.append(path)
    assert [response.token_ids for response in run(strategy("reject0", seed))] == expected


def test_a_candidate_is_ranked_by_what_is_ahead_of_it_and_keeps_its_own_value():
    search = LookaheadBeams(PROMPT, LIMITS, 0, num_blocks=2, width=2, length=1)
    (first,) = tell_round(search, [([[1] * 4, [2] * 4], [0.9, 0.2])])
    assert not first.greedy
    ahead = search.ask()
    assert [expansion.prefix_ids[3:] for expansion in ahead] == [[1] * 4, [2] * 4]
    assert all(expansion.greedy and expansion.n == 1 for expansion in ahead)
    assert search.ask() == []
    for expansion, value in zip(ahead, (0.3, 0.8), strict=True):
        search.tell(expansion.path_id, [block_of([5] * 4)], [value])
    # The second one leads further. What was ahead of it is thrown away.
    (second,) = tell_round(search, [([[3, STOP], [4, STOP]], [0.4, 0.5])])
    assert second.prefix_ids[3:] == [2] * 4
    assert [r.token_ids for r in search.result()] == [[2, 2, 2, 2, 4, STOP]]
    reasons = ["length", "length", "lookahead", "lookahead", "stop", "stop"]
    assert [node.finish_reason for node in search.nodes] == reasons
    assert [node.parent for node in search.nodes] == [None, None, 0, 1, 1, 1]
    assert [node.value for node in search.nodes] == [0.9, 0.2, 0.3, 0.8, 0.4, 0.5]


def test_an_ended_candidate_has_nothing_ahead_and_keeps_its_rank():
    search = LookaheadBeams(PROMPT, LIMITS, 0, num_blocks=2, width=2, length=2)
    tell_round(search, [([[1, STOP], [2] * 4], [0.5, 0.9])])
    (ahead,) = search.ask()
    assert ahead.max_new_tokens == 8  # two blocks
    search.tell(ahead.path_id, [block_of([5, STOP])], [0.4])
    assert search.done
    assert [r.token_ids for r in search.result()] == [[1, STOP]]


@pytest.mark.parametrize(("search_type", "length"), [("lookahead2", 1), ("lookahead2", 3)])
def test_the_blocks_of_a_round_with_those_ahead_are_the_budget(search_type, length):
    search = strategy(search_type, 0, lookahead=length)
    beams = search.ask()
    assert sum(expansion.n for expansion in beams) == 8 / (length + 1)
    for expansion in beams:
        blocks = [block_of([1] * 4)] * expansion.n
        search.tell(expansion.path_id, blocks, [0.5] * expansion.n)
    assert sum(expansion.n for expansion in search.ask()) * (length + 1) == 8


def test_subtrees_never_compete():
    search = strategy("dvts2", 0, num_blocks=4)
    tell_round(search, [([[1] * 4, [2] * 4], [0.8, 0.9]), ([[3] * 4, [4] * 4], [0.2, 0.1])])
    assert [expansion.prefix_ids[3:] for expansion in search.ask()] == [[2] * 4, [3] * 4]


def test_the_best_prefixes_are_finished_in_one_piece_and_an_ended_one_takes_part():
    search = PruneOnce(PROMPT, LIMITS, 0, num_blocks=4, num_kept=2)
    prefixes = [[1] * 4, [2] * 4, [3, STOP], [4, STOP]]
    values = [0.3, 0.6, 0.9, 0.1]
    tell_round(search, [([ids], [v]) for ids, v in zip(prefixes, values, strict=True)])
    (rest,) = tell_round(search, [([[7] * 8], [0.2])])
    assert (rest.prefix_ids[3:], rest.max_new_tokens) == ([2] * 4, 8)
    assert [r.token_ids for r in search.result()] == [[3, STOP], [2] * 4 + [7] * 8]


def test_the_lowest_share_of_the_open_paths_is_dropped_and_the_last_one_stays():
    search = LowestRejected(PROMPT, Limits(20, 4, (STOP,)), 0, num_paths=6, percent=50)
    values = [0.5, 0.1, 0.4, 0.1, 0.6, 0.01]
    # The last one has ended: however low, it stays, and does not count.
    paths = [[slot] * 4 for slot in range(5)] + [[5, STOP]]
    tell_round(search, [([ids], [v]) for ids, v in zip(paths, values, strict=True)])
    assert sorted(search.paths) == [0, 2, 4, 5]  # of the equal ones, both
    tell_round(search, [([[1] * 4], [0.5])] * 3)
    assert sorted(search.paths) == [0, 2, 5]  # of equal ones, the last
    tell_round(search, [([[1] * 4], [0.5])] * 2)
    tell_round(search, [([[1] * 4], [0.5])])
    assert sorted(search.paths) == [0, 5]
    tell_round(search, [([[1] * 4], [0.5])])
    assert [len(r.token_ids) for r in search.result()] == [20, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.7] * 4, 16), ([0.0, 1.0, 1.0, 0.0], 4), ([0.25, 0.75, 0.25, 0.75], 10)],
)
def test_the_next_block_is_as_long_as_the_values_agree(values, expected):
    search = AdaptiveBeams(PROMPT, Limits(64, 16, (STOP,)), 0, num_blocks=4, width=2, shortest=4)
    children = [[1] * 16, [2] * 16]
    asked = tell_round(search, [(children, values[:2]), (children, values[2:])])
    assert {expansion.max_new_tokens for expansion in asked} == {16}
    assert {expansion.max_new_tokens for expansion in search.ask()} == {expected}


def test_survivors_are_drawn_by_their_weights_without_replacement():
    values, temperature = [0.8, 0.5, 0.3], 2.0
    odds = [(value / (1 - value)) ** (1 / temperature) for value in values]
    counts = Counter()
    for seed in range(1500):
        search = StochasticBeams(PROMPT, LIMITS, seed, 6, 3, temperature)
        blocks = [[1] * 4, [2] * 4, [3] * 4]
        tell_round(search, [(blocks, values), (blocks, [1e-6, 1e-6, 1e-6])])
        counts[tuple(expansion.prefix_ids[-1] - 1 for expansion in search.ask())] += 1
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = [odds[i] / sum(odds) * odds[j] / (sum(odds) - odds[i]) for i, j in pairs]
    # Four standard errors of 1,500 draws, at most.
    assert [counts[pair] / 1500 for pair in pairs] == pytest.approx(expected, abs=0.052)


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_a_systematic_draw_takes_each_its_share_of_times(offset):
    probabilities = np.array([0.5, 0.05, 0.45 - 1e-12, 1e-12, 0.0])
    drawn = systematic_draw(probabilities, offset)
    assert len(drawn) == 5
    for index, probability in enumerate(probabilities):
        assert abs((drawn == index).sum() - 5 * probability) < 1


# A policy of three tokens, of which one ends the response, and values that depend on the path.
CHAIN = Limits(max_length=3, block_size=1, stop_token_ids=(STOP,))
TOKENS = {1: 0.5, 2: 0.3, STOP: 0.2}


def chain_value(path):
    return min(0.9, 0.2 + 0.25 * path.count(2) + 0.1 * (path[-1] == STOP))


def sample_chain(expansion):
    draws = random.Random(expansion.seed)
    tokens = draws.choices(list(TOKENS), list(TOKENS.values()), k=expansion.n)
    paths = [[*expansion.prefix_ids[len(PROMPT) :], token] for token in tokens]
    return [block_of([token]) for token in tokens], [chain_value(path) for path in paths]


def ends_with_two(path):
    return float((path[-1] != STOP and path[-1] == 2) or path[-2:] == [2, STOP])


def exact_expectation(temperature):
    """E[f prod G] over all responses of the chain."""
    total = 0.0
    for length in (1, 2, 3):
        for path in map(list, itertools.product(TOKENS, repeat=length)):
            if STOP in path[:-1] or (length < 3 and path[-1] != STOP):
                continue
            weight = ends_with_two(path)
            for end in range(1, length + 1):
                value = chain_value(path[:end])
                weight *= TOKENS[path[end - 1]] * (value / (1 - value)) ** (1 / temperature)
            total += weight
    return total


class WeighedParticles(Particles):
    """Particles that keep the mean weight of each round."""

    def select(self, candidates):
        means = getattr(self, "means", [])
        self.means = [*means, np.exp(log_weights(candidates, self.temperature)).mean()]
        return super().select(candidates)


def test_particle_filtering_is_unbiased():
    """Over 800 searches of 4 paths: within four standard errors, which are below 5 %."""
    estimates = []
    for seed in range(800):
        search = WeighedParticles(PROMPT, CHAIN, seed, 4, temperature=2.0)
        responses = run(search, answer=sample_chain)
        weights = [math.prod(search.means[: len(r.token_ids)]) for r in responses]
        estimates.append(
            statistics.mean(
                weight * ends_with_two(response.token_ids)
                for weight, response in zip(weights, responses, strict=True)
            )
        )
    exact = exact_expectation(temperature=2.0)
    error = statistics.stdev(estimates) / math.sqrt(len(estimates))
    assert error < 0.05 * exact
    assert abs(statistics.mean(estimates) - exact) < 4 * error


def test_entropic_particles_are_drawn_more_evenly_early_on_alone():
    limits = Limits(40, 4, (STOP,))
    uneven = log_weights_of([0.999, 0.1, 0.1, 0.1])
    even = log_weights_of([0.5, 0.6, 0.5, 0.4])
    search = EntropicParticles(PROMPT, limits, 0, 4)
    weights = search.weights(uneven)
    # An effective size of 1 in 4, after the first of ten rounds: T = 4 x 0.9.
    assert weights == pytest.approx(normalized(uneven / (4 * 0.9)), rel=1e-2)
    assert weights[0] < normalized(uneven)[0]
    assert (search.weights(even) == normalized(even)).all()
    search.round = 4  # half of the rounds are over
    assert (search.weights(uneven) == normalized(uneven)).all()


def log_weights_of(values):
    values = np.array(values)
    return np.log(values) - np.log1p(-values)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_values_at_the_edge_have_finite_weights(value):
    search = strategy("particles", 0, num_blocks=2)
    tell_round(search, [([[1] * 4], [value]), ([[2] * 4], [0.5])])
    drawn = [expansion.prefix_ids[-1] for expansion in search.ask()]
    assert drawn == ([1, 1] if value else [2, 2])


def test_a_particle_may_go_on_in_several_slots_with_blocks_of_their_own():
    search = Particles(PROMPT, LIMITS, 0, 2)
    tell_round(search, [([[1] * 4], [0.999999]), ([[2] * 4], [0.000001])])
    first, second = search.ask()
    assert first.prefix_ids == second.prefix_ids
    assert first.seed != second.seed


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ([], "Selecting gives up every path"),
        ([0, 2], "Selecting selects for the slot 2, not open"),
    ],
)
def test_a_rule_that_breaks_the_rules_is_named(selected, message):
    class Selecting(Rounds):
        def select(self, candidates):
            return dict.fromkeys(selected, candidates[0].path)

    search = Selecting(PROMPT, LIMITS, 0, 2)
    with pytest.raises(ValueError, match=message):
        tell_round(search, [([[1] * 4], [0.5])] * 2)
