"""Cutting a global batch into micro batches, and these among processes."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_lib import batches
from classifier_lib.batches import BatchPlan, collate
from classifier_lib.data import Rollout
from classifier_lib.layouts import Branch, lay_out
from tests.support.laid_out import num_laid_out


class ListData(list[Rollout]):
    """Samples in place of a data set."""

    def length(self, index: int) -> int:
        return len(self[index].roll_in) + len(self[index].roll_out)


def packed_plan(packing: str, limit: int, group_size: int = 1, pairs: bool = False) -> BatchPlan:
    return BatchPlan(packing, 40, 1, limit, group_size, pairs)


def random_data(seed: int, num_groups: int, group_size: int) -> ListData:
    """Groups of samples of very different lengths, up to 50 tokens."""
    rng = np.random.default_rng(seed)
    data = ListData()
    for _ in range(num_groups):
        roll_in = rng.integers(0, 3, rng.integers(1, 31))
        for _ in range(group_size):
            cut = roll_in[: rng.integers(1, len(roll_in) + 1)]
            data.append(Rollout(cut, rng.integers(0, 3, rng.integers(1, 21)), 0))
    return data


@given(
    st.integers(0, 1000),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 6]),
    st.integers(1, 4),
    st.sampled_from(["packed", "shared_prefix"]),
    st.integers(80, 300),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_packed_micro_batches(seed, num_groups, group_size, world_size, packing, limit, pairs):
    num_groups = max(num_groups, world_size)
    pairs = pairs and group_size > 1
    data = random_data(seed, num_groups + 2, group_size)
    order = np.random.default_rng(seed).permutation(num_groups + 2)[:num_groups]
    indices = (order[:, None] * group_size + np.arange(group_size)).reshape(-1).tolist()
    plan = packed_plan(packing, limit, group_size, pairs)

    parts = plan.micro_batches(data, indices, world_size)
    assert parts == plan.micro_batches(data, np.array(indices), world_size)
    assert len(parts) == world_size
    assert len({len(part) for part in parts}) == 1
    bins = [samples for part in parts for samples in part]
    assert all(bins)
    assert sorted(itertools.chain(*bins)) == sorted(indices)

    where = {sample: number for number, samples in enumerate(bins) for sample in samples}
    for first in range(0, len(indices), group_size):
        group = indices[first : first + group_size]
        # More processes may need more parts.
        if world_size == 1 and num_laid_out([data[i] for i in group], 40, packing) <= limit:
            assert len({where[i] for i in group}) == 1
            start = bins[where[group[0]]].index(group[0])
            assert bins[where[group[0]]][start : start + group_size] == group
    if pairs:  # next to each other and in order, as the loss takes them
        for samples in bins:
            assert all(i % 2 == 0 for i in samples[::2])
            assert samples[1::2] == [i + 1 for i in samples[::2]]

    # A pair is at most as long as the limit here: alone in a bin, each would fit.
    tokens = [plan.load(data, samples).counts.all for samples in bins]
    # Or there are as many bins as every process can have the same number of.
    most_bins = len(indices) // (2 if pairs else 1)
    assert max(tokens) <= limit or len(bins) + world_size > most_bins


def count_by_laying_out(branches: list[Branch]) -> int:
    """The tokens of a row as they were counted at first."""
    return lay_out(branches)[0][-1].stop


@given(st.integers(0, 1000), st.sampled_from([2, 4, 6]), st.integers(1, 4), st.integers(80, 300))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_counting_cuts_as_laying_out_did(seed, group_size, world_size, limit):
    data = random_data(seed, 12, group_size)
    plan = packed_plan("shared_prefix", limit, group_size)
    parts = plan.micro_batches(data, range(len(data)), world_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "count_laid_out", count_by_laying_out)
        assert parts == plan.micro_batches(data, range(len(data)), world_size)


def test_cutting_up_lays_nothing_out_and_loading_only_its_own(monkeypatch):
    laid_out: list[int] = []

    def count(branches: list[Branch]) -> tuple:
        laid_out.append(len(branches))
        return lay_out(branches)

    monkeypatch.setattr(batches, "lay_out", count)
    data = random_data(0, 16, 4)
    plan = packed_plan("shared_prefix", 100, 4)
    mine, _ = plan.micro_batches(data, range(len(data)), 2)
    assert laid_out == []
    for samples in mine:
        plan.load(data, samples)
    assert laid_out == [len(samples) for samples in mine]


@pytest.mark.parametrize("packing", ["packed", "shared_prefix"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_packed_micro_batches_are_balanced(packing, world_size):
    data = random_data(0, 64, 4)
    plan = packed_plan(packing, 1000, 4)
    parts = plan.micro_batches(data, range(len(data)), world_size)
    bins = list(itertools.chain(*parts))
    tokens = [num_laid_out([data[i] for i in samples], 40, packing) for samples in bins]
    groups = [range(i, i + 4) for i in range(0, len(data), 4)]
    sizes = [num_laid_out([data[i] for i in group], 40, packing) for group in groups]
    assert max(tokens) <= 1000
    assert max(tokens) - min(tokens) <= max(sizes) / 2
    # The fewest that hold all, whatever the layout saves between groups.
    fewest = -(-sum(sizes) // 1000)
    assert len(bins) == -(-fewest // world_size) * world_size


def same_length(num_samples: int, length: int) -> ListData:
    return ListData(
        Rollout(np.full(5, i), np.zeros(length - 5, dtype=int), 0) for i in range(num_samples)
    )


def test_a_group_past_the_limit_is_split():
    data = same_length(8, 10)
    together = packed_plan("packed", 80, 8).micro_batches(data, range(8), 1)
    assert together == [[list(range(8))]]
    halves = packed_plan("packed", 79, 8).micro_batches(data, range(8), 1)
    assert halves == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    single = packed_plan("packed", 10, 8).micro_batches(data, range(8), 1)
    assert sorted(single[0]) == [[i] for i in range(8)]
    # Nor are pairs split that don't fit, or single samples.
    pairs = packed_plan("packed", 10, 8, pairs=True).micro_batches(data, range(8), 1)
    assert sorted(pairs[0]) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    single = packed_plan("packed", 9, 8).micro_batches(data, range(8), 1)
    assert sorted(single[0]) == [[i] for i in range(8)]
    three_pairs = packed_plan("packed", 50, 6, pairs=True).micro_batches(data, range(6), 1)
    assert sorted(three_pairs[0]) == [[0, 1], [2, 3, 4, 5]]


def test_groups_are_split_to_keep_the_limit_on_every_process():
    data = same_length(6, 10)
    parts = packed_plan("packed", 20, 2).micro_batches(data, range(6), 2)
    assert max(len(samples) for part in parts for samples in part) <= 2


def test_what_is_shared_counts_once():
    roll_in = np.arange(30)
    data = ListData(Rollout(roll_in, np.array([i]), 0) for i in range(8))
    assert packed_plan("packed", 68, 4).micro_batches(data, range(8), 1)[0] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]
    assert packed_plan("shared_prefix", 68, 4).micro_batches(data, range(8), 1) == [
        [list(range(8))]
    ]


def test_the_default_limit_is_that_of_padded_ones():
    assert BatchPlan("packed", 100, 8).token_limit == 800
    assert BatchPlan("packed", 100, 8, 350).token_limit == 350


def test_cut_samples_count_as_cut():
    data = same_length(4, 60)
    assert packed_plan("packed", 80).micro_batches(data, range(4), 1) == [[[0, 2], [1, 3]]]


def test_padded_micro_batches_are_neighbours():
    """As published: rank r of W takes micro batches r, r + W, ... of the global batch."""
    indices = [4, 5, 20, 21, 8, 9, 0, 1]
    plan = BatchPlan("padded", 10, 2, group_size=2)
    data = same_length(24, 60)
    assert plan.micro_batches(data, indices, 1) == [[[4, 5], [20, 21], [8, 9], [0, 1]]]
    assert plan.micro_batches(data, indices, 2) == [[[4, 5], [8, 9]], [[20, 21], [0, 1]]]
    larger = dataclasses.replace(plan, micro_batch_size=4)
    assert larger.micro_batches(data, np.array(indices), 2) == [[[4, 5, 20, 21]], [[8, 9, 0, 1]]]


def test_too_few_groups_for_the_processes():
    with pytest.raises(ValueError, match="2 groups of samples can't be shared out to 3 processes"):
        packed_plan("packed", 100, 2).micro_batches(same_length(4, 10), range(2), 3)
    halves = packed_plan("packed", 100, 2).micro_batches(same_length(4, 10), range(4), 4)
    assert sorted(halves) == [[[0]], [[1]], [[2]], [[3]]]


def test_load_is_collate():
    data = random_data(0, 3, 4)
    plan = BatchPlan("shared_prefix", 30, 2, multiple=64)
    batch, expected = (
        plan.load(data, [8, 9, 2]),
        collate([data[8], data[9], data[2]], 30, "shared_prefix", 64),
    )
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert batch.counts == expected.counts


def test_evaluation_goes_in_order_and_keeps_the_limits():
    data = same_length(7, 10)
    assert BatchPlan("padded", 100, 3).in_order(data) == [range(0, 3), range(3, 6), range(6, 7)]
    assert packed_plan("packed", 20).in_order(data) == [range(i, i + 1) for i in range(7)]
    eight = dataclasses.replace(packed_plan("packed", 20), micro_batch_size=8)
    assert eight.in_order(data) == [range(0, 2), range(2, 4), range(4, 6), range(6, 7)]
    pairs = dataclasses.replace(eight, pairs=True, tokens_per_micro_batch=39)
    assert pairs.in_order(same_length(6, 10)) == [range(0, 2), range(2, 4), range(4, 6)]
    long = dataclasses.replace(eight, tokens_per_micro_batch=5)  # one sample at least
    assert long.in_order(data) == [range(i, i + 1) for i in range(7)]


def test_only_the_largest_groups_are_split_for_more_bins():
    lengths = [40, 10, 10, 10]
    data = ListData(
        Rollout(np.full(5, 10 * i + j), np.zeros(length - 5, dtype=int), 0)
        for i, length in enumerate(lengths)
        for j in range(2)
    )
    parts = packed_plan("packed", 1000, 2).micro_batches(data, range(8), 5)
    bins = [samples for part in parts for samples in part]
    assert sorted(bins) == [[0], [1], [2, 3], [4, 5], [6, 7]]


def test_processes_get_about_as_many_tokens():
    data = random_data(0, 128, 4)
    parts = packed_plan("packed", 200, 4).micro_batches(data, range(len(data)), 16)
    loads = [sum(data.length(i) for samples in part for i in samples) for part in parts]
    assert max(loads) < 1.05 * np.mean(loads)


def test_the_default_limit_is_bounded():
    assert BatchPlan("packed", 17_408, 8).token_limit == 65_536
    assert BatchPlan("packed", 17_408, 8, 131_072).token_limit == 131_072
