"""Searches whose blocks are sent ahead: the same results, and no more waste than is stated."""

import asyncio
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_lib.scoring import Scores
from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, Sampling
from search_lib.kept_blocks import KeptBlocks
from search_lib.runner import SearchJob, run_search
from search_lib.speculation import Speculation
from search_lib.strategies import BeamSearch, strategy_factory
from search_lib.strategies.base import Guess, Guessing
from search_lib.urgency import current_urgency
from tests.support.fake_searches import LIMITS, PROMPT, run, sample_blocks, sample_without_ties

SAMPLING = Sampling()

GUESSING = (
    *("beam2", "bfs", "beam1", "random2", "lookahead2", "dvts2", "stochastic2"),
    *("particles", "entropic", "prune3", "reject0", "reject40", "deepconf3"),
)
WITHOUT = ("bon", "adaptive2")

FACTORIES = {
    name: strategy_factory(name, 8, LIMITS, confidence_window=3) for name in (*GUESSING, *WITHOUT)
}


class SlowEngine:
    """Answers an expansion by its seed, after a number of turns of the loop that is drawn.

    `fails` says of a request whether it fails; `in_flight` has the blocks of running requests.
    """

    def __init__(self, seed=0, fails=lambda expansion: False):
        self.random = random.Random(seed)
        self.fails = fails
        self.in_flight = {}
        self.most_in_flight = 0
        self.given_up = []
        self.sent = []

    async def generate(self, expansion, sampling):
        self.sent.append((expansion, current_urgency()))
        self.in_flight[expansion.seed] = expansion.n
        self.most_in_flight = max(self.most_in_flight, sum(self.in_flight.values()))
        try:
            for _ in range(self.random.choice([1, 2, 3, 40])):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.given_up.append(expansion.seed)
            raise
        finally:
            del self.in_flight[expansion.seed]
        if self.fails(expansion):
            raise RuntimeError("engine fault")
        return sample_blocks(expansion)[0]


class SeededScorer:
    """Knows the values that `sample_blocks` gives the blocks of an expansion, by their tokens."""

    def __init__(self):
        self.num_scored = 0

    async def score(self, prefix_ids, blocks):
        self.num_scored += 1
        await asyncio.sleep(0)
        values = [random.Random(str((prefix_ids, b.token_ids))).random() for b in blocks]
        return Scores([round(value, 1) for value in values], 0)


def search(name, seed, room, engine=None, kept=None):
    engine = engine or SlowEngine(seed)
    strategy = FACTORIES[name](PROMPT, seed)
    job = SearchJob(Problem("p", "", "0"), 0, seed, strategy, kept=kept)

    async def body():
        cost = await run_search(strategy, engine, SeededScorer(), SAMPLING, watch=job, room=room)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return cost

    return strategy, asyncio.run(body())


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_search_ends_as_it_does_without(name, seed):
    plain, plain_cost = search(name, seed, room=0)
    ahead, cost = search(name, seed, room=8, engine=SlowEngine(seed + 100))
    assert ahead.result() == plain.result()
    assert (ahead.nodes, ahead.sources) == (plain.nodes, plain.sources)
    assert cost.tokens_generated == plain_cost.tokens_generated
    assert cost.contexts_generated == plain_cost.contexts_generated


@pytest.mark.parametrize("name", [name for name in GUESSING if name not in ("bfs", "prune3")])
def test_guesses_of_every_strategy_come_true(name, monkeypatch):
    """But for one beam, which knows nothing before its round has ended, and a single selection."""
    taken, take = [], Speculation.take

    def counted(self, expansion):
        request = take(self, expansion)
        taken.append(request is not None)
        return request

    monkeypatch.setattr(Speculation, "take", counted)
    for seed in range(4):
        search(name, seed, 8)
    assert sum(taken) >= 4


def play(name, seed, pick, answers):
    """Runs a search that is asked for guesses after every answer.

    Args:
        name: Its strategy.
        seed: Its seed.
        pick: Chooses which of so many open requests is answered next.
        answers: Says whether a guess is answered.

    Returns:
        The search, and by seed what it asked for and what it called certain.
    """
    strategy = FACTORIES[name](PROMPT, seed)
    waiting, asked, certain, answered = [], {}, {}, {}
    while not strategy.done:
        new = strategy.ask()
        asked |= {expansion.seed: replace(expansion, path_id=0) for expansion in new}
        waiting += new
        expansion = waiting.pop(pick(len(waiting)))
        strategy.tell(expansion.path_id, *sample_without_ties(expansion))
        for guess in [] if strategy.done else strategy.guess(answered):
            assert 0 < guess.probability <= 1
            if guess.probability == 1:
                certain[guess.expansion.seed] = replace(guess.expansion, path_id=0)
            if answers():
                answer = zip(*sample_without_ties(guess.expansion), strict=True)
                answered[guess.expansion.seed] = list(answer)
    return strategy, asked, certain


@pytest.mark.parametrize("name", GUESSING)
@given(seed=st.integers(0, 100), data=st.data())
@settings(max_examples=6, deadline=None)
def test_what_is_certain_is_asked_for_and_guessing_changes_nothing(name, seed, data):
    expected = run(FACTORIES[name](PROMPT, seed), answer=sample_without_ties)
    strategy, asked, certain = play(
        name, seed, lambda n: data.draw(st.integers(0, n - 1)), lambda: data.draw(st.booleans())
    )
    assert strategy.result() == expected
    assert {seed: asked.get(seed) for seed in certain} == certain


def test_draws_by_place_make_a_later_round_uncertain():
    """In 60 searches, 5 of 251 guesses would be wrong that were certain but for the depth."""
    for seed in range(60):
        order = random.Random(seed)
        _, asked, certain = play("random2", seed, order.randrange, lambda r=order: r.random() < 0.8)
        assert certain.keys() <= asked.keys()


@pytest.mark.parametrize("name", [name for name in GUESSING if name not in ("bfs", "prune3")])
def test_most_of_what_is_likely_comes_true(name):
    """Of all guesses above one half, over many searches, at least half are asked for."""
    right = wrong = 0
    for seed in range(15):
        strategy = FACTORIES[name](PROMPT, seed)
        order, waiting = random.Random(seed), []
        asked, guessed = set(), set()
        while not strategy.done:
            new = strategy.ask()
            asked |= {expansion.seed for expansion in new}
            waiting += new
            expansion = waiting.pop(order.randrange(len(waiting)))
            strategy.tell(expansion.path_id, *sample_without_ties(expansion))
            if not strategy.done:
                guesses = strategy.guess({})
                guessed |= {one.expansion.seed for one in guesses if one.probability >= 0.5}
        right += len(guessed & asked)
        wrong += len(guessed - asked)
    assert right > wrong
    assert right > 6


def test_the_best_two_of_three_beams_are_certain_while_the_fourth_is_missing():
    strategy = BeamSearch(PROMPT, LIMITS, seed=0, num_blocks=8, width=2)
    expansions = strategy.ask()
    values = [0.9, 0.1, 0.8, 0.7, 0.2, 0.3]
    for number, expansion in enumerate(expansions[:3]):
        blocks = [Block([number, child, 0, 0], "length") for child in (0, 1)]
        strategy.tell(expansion.path_id, blocks, values[2 * number : 2 * number + 2])
    guesses = {tuple(one.expansion.prefix_ids[3:5]): one.probability for one in strategy.guess({})}
    assert {path for path, probability in guesses.items() if probability == 1} == {(0, 0), (1, 0)}
    assert guesses[1, 1] > guesses.get((2, 1), 0)
    assert (0, 1) not in guesses or guesses[0, 1] < 1


class Scripted(Guessing):
    """A search of two rounds, one expansion each, that guesses as it is told.

    Args:
        guesses: Seeds and probabilities that it gives while the first round runs.
        second: Seed of the second round.
    """

    def __init__(self, guesses, second):
        self.guesses = guesses
        self.seeds = [1, second]
        self.told = 0
        self.asked = 0

    @property
    def done(self):
        return self.told == 2

    def expansion(self, seed, path_id):
        (first, *_) = BeamSearch(PROMPT, LIMITS, 0, 2, 2).ask()
        return replace(first, seed=seed, path_id=path_id)

    def ask(self):
        if self.asked > self.told:
            return []
        self.asked += 1
        return [self.expansion(self.seeds[self.told], self.told)]

    def tell(self, path_id, blocks, values):
        assert path_id == self.told
        self.told += 1

    def guess(self, answered):
        if self.told:
            return []
        return [Guess(self.expansion(seed, 99), p) for seed, p in self.guesses.items()]


class Gate:
    """An engine whose requests wait until the test says: by seed, a number of turns."""

    def __init__(self, turns, fails=()):
        self.turns = turns
        self.fails = list(fails)
        self.sent = []
        self.given_up = []

    async def generate(self, expansion, sampling):
        self.sent.append((expansion.seed, current_urgency().guessed))
        try:
            for _ in range(self.turns[expansion.seed]):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.given_up.append(expansion.seed)
            raise
        if expansion.seed in self.fails:
            self.fails.remove(expansion.seed)
            raise RuntimeError("engine fault")
        return [Block([1, 2, 3], "length")] * expansion.n


def run_scripted(guesses, second, engine, room=100):
    strategy = Scripted(guesses, second)
    return asyncio.run(run_search(strategy, engine, None, SAMPLING, room=room))


def test_a_guess_that_comes_true_is_not_sent_again_and_wastes_nothing():
    engine = Gate({1: 10, 5: 3})
    cost = run_scripted({5: 0.9}, 5, engine)
    assert engine.sent == [(1, False), (5, True)]
    assert (cost.tokens_generated, cost.tokens_wasted, cost.blocks_cancelled) == (12, 0, 0)


def test_a_guess_that_is_wrong_is_cancelled_or_its_tokens_are_wasted():
    engine = Gate({1: 10, 5: 3, 6: 50, 7: 1})
    cost = run_scripted({5: 0.9, 6: 0.8}, 7, engine)
    assert engine.given_up == [6]
    assert (cost.tokens_generated, cost.tokens_wasted, cost.blocks_cancelled) == (12, 6, 2)


def test_a_guess_under_way_becomes_urgent_when_the_search_asks_for_it():
    seen = []

    class Watching(Gate):
        async def generate(self, expansion, sampling):
            own = current_urgency()
            seen.append((expansion.seed, own, own.guessed))
            return await super().generate(expansion, sampling)

    run_scripted({5: 0.9}, 5, Watching({1: 3, 5: 20}))
    ((own, at_first),) = [(own, at_first) for seed, own, at_first in seen if seed == 5]
    assert at_first
    assert not own.guessed


def test_what_is_certain_does_not_wait_behind_others():
    seen = []

    class Watching(Gate):
        async def generate(self, expansion, sampling):
            seen.append((expansion.seed, current_urgency().guessed))
            return await super().generate(expansion, sampling)

    run_scripted({5: 1.0}, 5, Watching({1: 3, 5: 20}))
    assert seen == [(1, False), (5, False)]


def test_unlikely_guesses_are_not_sent_and_the_likeliest_take_the_room():
    engine = Gate(dict.fromkeys(range(10), 5))
    run_scripted({4: 0.4, 5: 0.6, 6: 0.9, 7: 0.7}, 6, engine, room=2 * 3)
    assert [seed for seed, _ in engine.sent] == [1, 6, 7]


@pytest.mark.parametrize("turns", [1, 20])
def test_a_guess_that_fails_is_asked_again_if_it_is_needed_and_forgotten_if_not(turns):
    engine = Gate({1: 10, 5: 2, 6: 2}, fails=[5, 6])
    cost = run_scripted({5: 0.9, 6: 0.8}, 5, engine)
    assert [seed for seed, _ in engine.sent] == [1, 5, 6, 5]
    assert (cost.tokens_generated, cost.tokens_wasted) == (12, 0)


def test_an_answer_of_the_wrong_size_fails_the_search_only_if_it_asked_for_it():
    class Short(Gate):
        async def generate(self, expansion, sampling):
            blocks = await super().generate(expansion, sampling)
            return blocks[: 1 if expansion.seed == guess.seed else None]

    strategy = BeamSearch(PROMPT, LIMITS, seed=0, num_blocks=4, width=2)
    guess = replace(strategy.ask()[0], seed=1234)
    strategy = BeamSearch(PROMPT, LIMITS, seed=0, num_blocks=4, width=2)
    strategy.guess = lambda answered: answered.get(1234) or [Guess(guess, 0.9)]
    engine = Short(defaultdict(lambda: 2))
    asyncio.run(run_search(strategy, engine, SeededScorer(), SAMPLING, room=8))
    assert (1234, True) in engine.sent
    assert strategy.done


def test_a_search_that_fails_gives_up_its_guesses():
    engine = Gate({1: 10, 5: 100}, fails=[1])
    with pytest.raises(RuntimeError, match="engine fault"):
        run_scripted({5: 0.9}, 5, engine)
    assert engine.given_up == [5]


@pytest.mark.parametrize("name", FACTORIES)
def test_no_more_blocks_are_in_flight_than_the_budget(name):
    for seed in range(3):
        engine = SlowEngine(seed)
        search(name, seed, 8, engine)
        assert engine.most_in_flight <= 8


def test_blocks_of_guesses_that_came_true_are_kept():
    kept, expected = KeptBlocks(), KeptBlocks()
    strategy, _ = search("beam2", 3, 8, kept=kept)
    search("beam2", 3, 0, kept=expected)
    ours, theirs = kept.of(strategy.sources), expected.of(strategy.sources)
    assert [list(one.token_ids) for one in ours] == [list(one.token_ids) for one in theirs]


def test_a_rule_of_its_own_guesses_nothing_unless_it_says_that_it_can():
    class Worst(BeamSearch):
        def select(self, candidates):
            return super().select(candidates[::-1])

    assert BeamSearch.foresight == "certain"
    assert Worst.foresight == "none"
    strategy = Worst(PROMPT, LIMITS, seed=0, num_blocks=8, width=2)
    expansion = strategy.ask()[0]
    strategy.tell(expansion.path_id, *sample_blocks(expansion))
    assert strategy.guess({}) == []
