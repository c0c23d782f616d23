"""Strategies against small references; no model, no I/O."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_lib.commands import InputError
from search_lib.engines.base import Block
from search_lib.strategies import (
    STRATEGIES,
    BeamSearch,
    BestOfN,
    Limits,
    StrategySettings,
    describe_strategies,
    strategy_factory,
    traits_of,
)
from search_lib.strategies.beam import RandomBeams
from tests.support.fake_searches import LIMITS, PROMPT, STOP, run, sample_blocks, tell_round


def reference_beam_search(num_blocks: int, width: int, seed: int) -> list[tuple[list[int], float]]:
    """Algorithm 1 of the paper, written straight: lists of (response, value, closed)."""
    beams: list[tuple[list[int], float, bool]] = [([], 0.0, False)] * (num_blocks // width)
    shadow = BeamSearch(PROMPT, LIMITS, seed, num_blocks, width)  # only for its request seeds
    while not all(closed for _, _, closed in beams):
        candidates = []
        expansions = iter(shadow.ask())
        for response, _, closed in beams:
            if closed:
                continue
            expansion = next(expansions)
            assert expansion.prefix_ids == PROMPT + response
            blocks, values = sample_blocks(expansion)
            shadow.tell(expansion.path_id, blocks, values)
            for block, value in zip(blocks, values, strict=True):
                longer = response + block.token_ids
                candidates.append((longer, value, longer[-1] == STOP or len(longer) == 12))
        survivors = iter(sorted(candidates, key=lambda candidate: -candidate[1]))
        beams = [beam if beam[2] else next(survivors) for beam in beams]
    return [(response, value) for response, value, _ in beams]


@pytest.mark.parametrize(("num_blocks", "width"), [(4, 2), (8, 2), (8, 4), (6, 6), (3, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_beam_search_equals_the_written_out_algorithm(num_blocks, width, seed):
    responses = run(BeamSearch(PROMPT, LIMITS, seed, num_blocks, width))
    expected = reference_beam_search(num_blocks, width, seed)
    assert [(response.token_ids, response.value) for response in responses] == expected
    assert len(responses) == num_blocks // width


def test_two_children_of_one_parent_may_survive_and_a_finished_beam_keeps_its_slot():
    search = BeamSearch(PROMPT, LIMITS, seed=0, num_blocks=6, width=2)
    tell_round(
        search,
        [
            ([[1] * 4, [2] * 4], [0.9, 0.8]),  # both survive
            ([[3] * 4, [4] * 4], [0.1, 0.2]),  # neither does
            ([[5, STOP], [6] * 4], [0.7, 0.6]),  # one does, finished
        ],
    )
    # The finished beam has the third slot now. It is not asked for, and however low its value
    # or high those of the others, it stays.
    asked = tell_round(
        search, [([[1, STOP], [1] * 4], [0.95, 0.96]), ([[2] * 4, [2] * 4], [0.99, 0.98])]
    )
    assert [expansion.prefix_ids[3:] for expansion in asked] == [[1] * 4, [2] * 4]
    asked = tell_round(
        search, [([[7] * 4, [8] * 4], [0.1, 0.2]), ([[7] * 4, [7, STOP]], [0.3, 0.4])]
    )
    assert [expansion.prefix_ids[3:] for expansion in asked] == [[2] * 8, [2] * 8]
    assert search.done
    results = search.result()
    assert [r.token_ids for r in results] == [[2] * 8 + [7, STOP], [2] * 8 + [7] * 4, [5, STOP]]
    assert [r.value for r in results] == [0.4, 0.3, 0.7]
    assert [r.finished for r in results] == [True, False, True]


def test_the_tree_leads_from_every_response_back_to_the_prompt():
    search = BeamSearch(PROMPT, LIMITS, seed=3, num_blocks=4, width=2)
    for response in run(search):
        length, node = 0, response.node
        assert search.nodes[node].value == response.value
        while node is not None:
            length += search.nodes[node].num_tokens
            node = search.nodes[node].parent
        assert length == len(response.token_ids)


PLAIN = ("bon", "random", "random4", "deepconf3")
"""Searches that need no values."""

GUIDED = (
    *("beam2", "beam4", "bfs", "lookahead2", "dvts2", "stochastic2", "adaptive2"),
    *("particles", "entropic", "prune3", "reject0", "reject40"),
)

FACTORIES = {
    name: strategy_factory(name, 8, LIMITS, confidence_window=3) for name in (*PLAIN, *GUIDED)
}


@pytest.mark.parametrize("search_type", FACTORIES)
@given(seed=st.integers(0, 50), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_answers_changes_nothing(search_type, seed, data):
    new = FACTORIES[search_type]
    in_order, shuffled = new(PROMPT, seed), new(PROMPT, seed)
    expected = run(in_order)
    assert run(shuffled, lambda n: data.draw(st.integers(0, n - 1))) == expected
    assert shuffled.nodes == in_order.nodes


@pytest.mark.parametrize("search_type", FACTORIES)
@given(seed=st.integers(0, 50), data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_budget_is_never_exceeded(search_type, seed, data):
    in_flight = [0]

    def counted(expansion):
        in_flight[0] -= expansion.n
        return sample_blocks(expansion)

    search = FACTORIES[search_type](PROMPT, seed)
    ask = search.ask

    def counting():
        asked = ask()
        in_flight[0] += sum(expansion.n for expansion in asked)
        assert in_flight[0] <= 8
        return asked

    search.ask = counting
    responses = run(search, lambda n: data.draw(st.integers(0, n - 1)), counted)
    assert 1 <= len(responses) <= 8


@pytest.mark.parametrize("search_type", [name for name in FACTORIES if name != "bon"])
@pytest.mark.parametrize("seed", range(5))
def test_a_path_that_has_ended_is_left_as_it_is(search_type, seed):
    search = FACTORIES[search_type](PROMPT, seed)
    closed = {}
    while not search.done:
        for expansion in search.ask():
            search.tell(expansion.path_id, *sample_blocks(expansion))
            now = {slot: path for slot, path in search.paths.items() if not path.open}
            assert closed.items() <= now.items()
            closed = now
    assert [r.token_ids for r in search.result()] == [path.token_ids for path in closed.values()]
    assert all(r.finished or len(r.token_ids) == LIMITS.max_length for r in search.result())


@pytest.mark.parametrize("search_type", FACTORIES)
def test_every_node_names_the_block_that_it_stands_for(search_type):
    search = FACTORIES[search_type](PROMPT, 3)
    told = {}
    while not search.done:
        for expansion in reversed(search.ask()):
            blocks, values = sample_blocks(expansion)
            search.tell(expansion.path_id, blocks, values)
            told |= {(expansion.path_id, number): block for number, block in enumerate(blocks)}
    assert sorted(search.sources) == sorted(told)  # dropped ones, too
    blocks = [told[source] for source in search.sources]
    assert [len(block.token_ids) for block in blocks] == [node.num_tokens for node in search.nodes]
    for response in search.result():
        path, node = [], response.node
        while node is not None:
            path = blocks[node].token_ids + path
            node = search.nodes[node].parent
        assert path == response.token_ids


def traits(search_type, **settings):
    return traits_of({"search_type": search_type, "num_blocks": 8, "confidence": 3} | settings)


@pytest.mark.parametrize("search_type", FACTORIES)
def test_no_tree_has_more_responses_than_its_strategy_allows(search_type):
    assert len(run(FACTORIES[search_type](PROMPT, 3))) <= traits(search_type).most_responses


@pytest.mark.parametrize(
    ("search_type", "most"),
    [
        *(("beam2", 4), ("bfs", 1), ("random", 4), ("random4", 2), ("dvts2", 4), ("lookahead2", 2)),
        *(("stochastic4", 2), ("adaptive2", 4), ("particles", 8), ("prune3", 3), ("reject50", 8)),
        *(("bon", 8), ("deepconf2", 8), ("not-loaded2", 8)),
    ],
)
def test_a_beam_has_one_response_at_most(search_type, most):
    assert traits(search_type).most_responses == most


def test_blocks_ahead_leave_fewer_responses():
    assert traits("lookahead2", lookahead=3).most_responses == 1


@pytest.mark.parametrize("search_type", FACTORIES)
def test_a_strategy_says_whether_it_does_without_values(search_type):
    assert traits(search_type).needs_values == (search_type in GUIDED)


def test_only_paths_of_subtrees_do_not_compete():
    assert [name for name in FACTORIES if not traits(name).paths_compete] == ["dvts2"]


def test_a_strategy_that_is_not_known_counts_as_guided():
    assert traits("not-loaded2").needs_values


def test_random_selection_ignores_values_and_differs_by_seed():
    def survivors(seed: int, values: list[float]) -> list[int]:
        search = RandomBeams(PROMPT, LIMITS, seed, 4, 2)
        tell_round(search, [([[1] * 4, [2] * 4], values[:2]), ([[3] * 4, [4] * 4], values[2:])])
        return [expansion.prefix_ids[-1] for expansion in search.ask()]

    drawn = [survivors(seed, [0.1, 0.2, 0.3, 0.4]) for seed in range(40)]
    assert drawn == [survivors(seed, [0.4, 0.3, 0.2, 0.1]) for seed in range(40)]
    assert {token for pair in drawn for token in pair} == {1, 2, 3, 4}


def test_best_of_n_asks_once_for_whole_responses():
    search = BestOfN(PROMPT, LIMITS, seed=0, num_blocks=3)
    (expansion,) = search.ask()
    assert (expansion.n, expansion.max_new_tokens) == (3, LIMITS.max_length)
    assert search.ask() == []
    search.tell(
        0, [Block([1, STOP], "stop"), Block([2] * 12, "length"), Block([3], "stop")], [0.5] * 3
    )
    assert [response.finished for response in search.result()] == [True, False, True]


@pytest.mark.parametrize("search_type", FACTORIES)
def test_answers_that_do_not_fit_are_refused(search_type):
    search = FACTORIES[search_type](PROMPT, 0)
    expansion = search.ask()[0]
    blocks, values = sample_blocks(expansion)
    for bad_blocks, bad_values, message in [
        (blocks[:-1], values, "asked for"),
        (blocks, values[:-1], "asked for"),
        ([Block([], "length")] * expansion.n, values, "got 0"),
        ([Block([1] * 99, "length")] * expansion.n, values, "got 99"),
        (blocks, [float("nan")] * expansion.n, "nan"),
        (blocks, [1.5] * expansion.n, "1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            search.tell(expansion.path_id, bad_blocks, bad_values)
    search.tell(expansion.path_id, blocks, values)
    with pytest.raises(ValueError, match="not asked for, or is answered"):
        search.tell(expansion.path_id, blocks, values)


@pytest.mark.parametrize("search_type", ["bon", "random2"])
def test_a_search_that_needs_no_values_is_the_same_without(search_type):
    valued = strategy_factory(search_type, 8, LIMITS)(PROMPT, 3)
    plain = strategy_factory(search_type, 8, LIMITS, has_values=False)(PROMPT, 3)
    while not plain.done:
        for expansion in plain.ask():
            blocks, values = sample_blocks(expansion)
            plain.tell(expansion.path_id, blocks, [None] * len(values))
    assert [r.token_ids for r in plain.result()] == [r.token_ids for r in run(valued)]
    assert {part.value for part in [*plain.result(), *plain.nodes]} == {None}


@pytest.mark.parametrize("search_type", GUIDED)
def test_a_search_by_values_refuses_to_do_without(search_type):
    search = FACTORIES[search_type](PROMPT, 0)
    (expansion, *_) = search.ask()
    blocks, values = sample_blocks(expansion)
    with pytest.raises(ValueError, match="got the value None"):
        search.tell(expansion.path_id, blocks, [None] * len(values))
    with pytest.raises(InputError, match=f"--search_type {search_type} selects .*--scorer none"):
        strategy_factory(search_type, 8, LIMITS, has_values=False)


@pytest.mark.parametrize(
    ("search_type", "num_blocks", "limits", "message"),
    [
        ("beam3", 8, LIMITS, "--num_blocks 8 is not divisible by the width 3"),
        ("beam0", 8, LIMITS, "not divisible by the width 0"),
        ("random", 7, LIMITS, "--num_blocks 7 is not divisible by the width 2"),
        ("beam2", 8, Limits(10, 4, (STOP,)), "--block_size 4 does not divide --max_length 10"),
        ("beam", 8, LIMITS, "--search_type beam needs a width behind it: beam2, beam4"),
        ("mcts", 8, LIMITS, "unknown --search_type 'mcts'; known: beam<w>, bfs, .*particles, "),
        ("2", 8, LIMITS, "unknown --search_type '2'"),
        ("beam2 ", 8, LIMITS, "unknown --search_type 'beam2 '"),
        ("bfs2", 8, LIMITS, "--search_type bfs2: bfs takes no number"),
        ("bon2", 8, LIMITS, "--search_type bon2: bon takes no number"),
        ("particles8", 8, LIMITS, "--search_type particles8: particles takes no number"),
        ("dvts", 8, LIMITS, "--search_type dvts needs a width behind it: dvts2, dvts4"),
        ("stochastic3", 8, LIMITS, "--num_blocks 8 is not divisible by the width 3"),
        ("lookahead4", 12, LIMITS, "12 is not divisible by 8: the width 4 of --search_type look"),
        ("prune", 8, LIMITS, "prune needs the number of prefixes to finish behind it: prune2"),
        ("prune9", 8, LIMITS, "prune9 finishes 9 of --num_blocks 8 prefixes: at least 1, and at"),
        ("prune0", 8, LIMITS, "prune0 finishes 0 of --num_blocks 8 prefixes"),
        ("reject", 8, LIMITS, "reject needs the percentage to drop behind it: reject25"),
        ("reject100", 8, LIMITS, "reject100 would drop every path: it takes 0 to 99 %"),
        ("deepconf4", 8, LIMITS, "deepconf4 abandons samples .* it needs --confidence with the"),
        ("bon", 0, LIMITS, "--num_blocks must be at least 1, got 0"),
        ("beam2", 2, Limits(4, 0, (STOP,)), "--block_size must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_name_their_flags(search_type, num_blocks, limits, message):
    with pytest.raises(InputError, match=message):
        strategy_factory(search_type, num_blocks, limits)


@pytest.mark.parametrize(
    ("search_type", "settings", "message"),
    [
        ("beam2", {"lookahead": 1}, "--lookahead plays no part in --search_type beam2"),
        ("bon", {"value_temperature": 2.0}, "--value_temperature plays no part in .* bon"),
        ("particles", {"value_temperature": 0.0}, "--value_temperature must be positive"),
        ("lookahead2", {"lookahead": -1}, "--lookahead must be at least 0"),
        ("reject25", {"keep_percent": 10}, "--keep_percent plays no part in .* reject25"),
        ("deepconf3", {"keep_percent": 0}, "--keep_percent must be at least 1, got 0"),
        ("deepconf3", {"keep_percent": 101}, "--keep_percent must be at most 100, got 101"),
        ("adaptive2", {"min_block_size": 0}, "--min_block_size must be at least 1"),
        ("adaptive2", {"min_block_size": 5}, "--min_block_size 5 is larger than --block_size 4"),
    ],
)
def test_further_settings_that_do_not_fit_name_their_flags(search_type, settings, message):
    with pytest.raises(InputError, match=message):
        strategy_factory(search_type, 8, LIMITS, settings=StrategySettings(**settings))


def test_every_registered_strategy_is_tested():
    assert {name.rstrip("0123456789") for name in FACTORIES} == STRATEGIES.keys()


def test_every_registered_strategy_has_a_form_and_a_rule():
    described = describe_strategies()
    assert [form.partition("<")[0] for form in described] == list(STRATEGIES)
    assert all(rule.endswith(".") for rule in described.values())
