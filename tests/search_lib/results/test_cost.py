"""Costs of searches, against contexts listed one by one and times set by hand."""

import dataclasses
import json

import pytest

from classifier_lib.flops import ModelSize, model_size
from classifier_lib.scoring import Scores
from search_lib import meter
from search_lib.engines.base import Block
from search_lib.meter import SearchMeter, SessionClock
from search_lib.results.cost import RunCost, SearchCost
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy


def blocks(*lengths):
    return [Block([1] * length, "length") for length in lengths]


def contexts_behind(start, count):
    return sum(start + i for i in range(1, count + 1))


@pytest.mark.parametrize(
    ("recomputed", "recomputed_contexts"),
    [
        (0, 0),
        (4, contexts_behind(6, 4)),  # the end of the prefix was dropped
        (10, contexts_behind(0, 10)),  # all of it
        (13, contexts_behind(0, 10) + contexts_behind(7, 3)),  # each block computed it for itself
    ],
)
def test_tokens_and_contexts_of_a_search(recomputed, recomputed_contexts):
    meter = SearchMeter(SessionClock())
    meter.add(10, blocks(3, 5), Scores([0.1, 0.2], 20 - recomputed))
    meter.add(13, blocks(2), Scores([0.3], 13))
    cost = meter.cost()
    new = contexts_behind(10, 3) + contexts_behind(10, 5) + contexts_behind(13, 2)
    assert (cost.tokens_generated, cost.contexts_generated) == (10, new)
    assert (cost.tokens_scored, cost.contexts_scored) == (
        10 + recomputed,
        new + recomputed_contexts,
    )
    # Together they are what scoring each candidate alone would compute.
    assert cost.tokens_scored + cost.tokens_cached == 13 + 15 + 15


def test_a_scorer_that_cannot_tell_leaves_its_share_open():
    meter = SearchMeter(SessionClock())
    meter.add(10, blocks(3), Scores([0.1], 10))
    meter.add(10, blocks(3), Scores([0.1], None))
    meter.add(10, blocks(3), Scores([0.1], 10))
    cost = meter.cost()
    assert (cost.tokens_generated, cost.contexts_generated) == (9, 3 * contexts_behind(10, 3))
    assert (cost.tokens_scored, cost.contexts_scored, cost.tokens_cached) == (None, None, None)


def test_prefixes_of_the_policy_are_computed_or_cached():
    meter = SearchMeter(SessionClock())
    meter.add(10, [Block([1] * 3, "length", prefix_cached=cached) for cached in (0, 9)], None)
    meter.add(13, [Block([1], "stop", prefix_cached=12)], None)
    cost = meter.cost()
    assert (cost.policy_tokens_cached, cost.policy_tokens_prefilled) == (0 + 9 + 12, 10 + 1 + 1)
    # Prefixes are no part of what the policy's FLOPs count.
    assert cost.contexts_generated == 2 * contexts_behind(10, 3) + contexts_behind(13, 1)


def test_an_engine_that_cannot_tell_leaves_the_prefixes_open():
    meter = SearchMeter(SessionClock())
    for cached in (9, None, 9):
        meter.add(10, [Block([1], "stop", prefix_cached=cached)], None)
    cost = meter.cost()
    assert (cost.policy_tokens_cached, cost.policy_tokens_prefilled) == (None, None)


def test_what_nothing_scores_costs_no_scoring():
    meter = SearchMeter(SessionClock())
    meter.add(10, blocks(3), None)
    cost = meter.cost()
    assert (cost.tokens_generated, cost.contexts_generated) == (3, contexts_behind(10, 3))
    assert (cost.tokens_scored, cost.contexts_scored, cost.tokens_cached) == (0, 0, 0)
    document = RunCost.of([cost]).document(ModelSize(1000, 8), None)
    assert document["value_model_flops"] == 0
    assert document["value_model_size"] is None


def test_the_engine_is_busy_while_any_request_is_there(monkeypatch):
    now = 100.0
    monkeypatch.setattr(meter.time, "monotonic", lambda: now)
    clock = SessionClock()
    first, second = clock.request(), clock.request()
    for step, action in (
        (1, first.__enter__),
        (2, second.__enter__),
        (4, lambda: first.__exit__(None, None, None)),
        (7, lambda: second.__exit__(None, None, None)),
    ):
        now = 100.0 + step
        action()
    now = 110.0
    assert (clock.seconds, clock.busy_seconds) == (10, 6)
    with clock.request():
        now = 112.0
        assert (clock.seconds, clock.busy_seconds) == (12, 8)
    assert SessionClock().session != clock.session


def test_sessions_of_a_run_add_up_and_old_records_leave_it_open():
    killed = [
        SearchCost(5, 1.0, 50, 6, 60, 70, "a", seconds, 1.0, 80, 8) for seconds in (4.0, 9.0, 2.0)
    ]
    resumed = [SearchCost(5, 1.0, 50, 6, 60, 70, "b", 1.0, 0.5, 80, 8)]
    policy, value_model = ModelSize(1000, 8), ModelSize(100, 4)
    found = RunCost.of(killed + resumed).document(policy, value_model)
    assert found["tokens_generated"] == 20
    assert (found["tokens_scored"], found["tokens_cached"]) == (24, 280)
    assert (found["policy_tokens_cached"], found["policy_tokens_prefilled"]) == (320, 32)
    assert found["policy_flops"] == 2 * 1000 * 20 + 4 * 8 * 200
    assert found["value_model_flops"] == 2 * 100 * 24 + 4 * 4 * 240
    assert found["wall_seconds"] == 10.0
    assert found["engine_busy_share"] == 1.5 / 10
    assert len(found["sessions"]) == 2
    assert "2 x N x tokens + 4 x" in found["definitions"]["flops"]
    json.dumps(found, allow_nan=False)

    mixed = RunCost.of([*killed, SearchCost(7, 1.0)]).document(policy, value_model)
    assert mixed["tokens_generated"] == 22
    unknown = ("tokens_scored", "tokens_cached", "policy_flops", "value_model_flops")
    unknown += ("policy_tokens_cached", "policy_tokens_prefilled")
    assert all(mixed[name] is None for name in (*unknown, "wall_seconds", "engine_busy_share"))
    assert RunCost.of(killed).document(None, value_model)["policy_flops"] is None


def test_waste_is_counted_by_itself():
    meter = SearchMeter(SessionClock())
    meter.add(10, blocks(3), None)
    meter.add_waste(2, blocks(4, 5))
    meter.add_waste(2, None)
    cost = meter.cost()
    assert (cost.tokens_generated, cost.tokens_wasted, cost.blocks_cancelled) == (3, 9, 2)
    run = RunCost.of([cost, cost])
    document = run.document(None, None)
    assert (document["tokens_wasted"], document["blocks_cancelled"]) == (18, 4)
    assert run.describe_waste() == (
        "--speculate: 18 tokens wasted beside 6, and 4 blocks given up before they ended"
    )


def test_records_of_earlier_versions_wasted_nothing():
    run = RunCost.of([SearchCost(5, 1.0)])
    assert (run.tokens_wasted, run.blocks_cancelled) == (0, 0)
    assert run.describe_waste() is None


def test_every_number_has_its_place_in_the_total():
    totals = {field.name for field in dataclasses.fields(RunCost)} - {"sessions"}
    assert totals < {field.name for field in dataclasses.fields(SearchCost)}
    assert totals < RunCost.of([]).document(None, None).keys()


def test_sizes_come_from_a_models_config(tmp_path):
    width, layers, kv_width, mlp = 32, 2, 16, 64
    per_layer = 2 * width * width + 2 * width * kv_width + 3 * width * mlp
    policy = save_tiny_policy(tmp_path / "policy")  # its output matrix is its embedding
    vocab_size = json.loads((policy / "config.json").read_text())["vocab_size"]
    size = ModelSize(layers * per_layer + vocab_size * width, layers * width)
    assert model_size(str(policy)) == size
    classifier = save_tiny_classifier(tmp_path / "value_model")
    size = ModelSize(layers * per_layer + width * width + 3 * width, layers * width)
    assert model_size(str(classifier)) == size
    assert model_size(str(tmp_path / "absent")) is None
