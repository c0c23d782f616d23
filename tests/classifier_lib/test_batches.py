"""Micro batches: one loss and one gradient, whatever the layout and the cutting up."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier_lib import batches
from classifier_lib.attention import SEGMENTED_SDPA
from classifier_lib.batches import PAD_MULTIPLE, BatchPlan, collate
from classifier_lib.data import Rollout
from classifier_lib.layouts import MIN_SHARED, Branch, lay_out
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import VALUE_MODELS, Qwen2ForClassifier, ValueModel
from tests.support.tiny_models import VOCAB_SIZE, build_tiny_config, tiny_value_config

PACKINGS = ("padded", "packed", "shared_prefix")
CPU = torch.device("cpu")


def cut_rollouts(num_roll_ins: int = 3, cuts: int = 4, seed: int = 0) -> list[Rollout]:
    """Samples in the manner of OpenR1-VM: cuts of each roll-in, all with one prompt."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 64, MIN_SHARED)
    rollouts = []
    for _ in range(num_roll_ins):
        roll_in = np.concatenate([prompt, rng.integers(0, 64, 16)])
        for cut in rng.integers(MIN_SHARED, 32, cuts):
            roll_out = rng.integers(0, 64, rng.integers(1, 30))
            label = int(rng.integers(0, 3))
            rollouts.append(Rollout(roll_in[:cut], roll_out, label, float(rng.random())))
    return rollouts


class ListData(list[Rollout]):
    """Samples in place of a data set."""

    def length(self, index: int) -> int:
        return len(self[index].roll_in) + len(self[index].roll_out)


def cut_sample(rollout: Rollout, max_length: int) -> tuple[list[int], list[int]]:
    """Roll-in and roll-out as they go into the model."""
    sequence = [*rollout.roll_in.tolist(), *rollout.roll_out.tolist()][:max_length]
    return sequence[: len(rollout.roll_in)], sequence[len(rollout.roll_in) :]


def num_laid_out(rollouts: list[Rollout], max_length: int, packing: str) -> int:
    """Tokens that have to be computed: with shared prefixes the nodes of trees of the roll-ins."""
    samples = [cut_sample(rollout, max_length) for rollout in rollouts]
    roll_ins = sum(len(roll_in) for roll_in, _ in samples)
    if packing == "shared_prefix":
        nodes = {
            (tuple(x[:MIN_SHARED]), tuple(x[: i + 1])) for x, _ in samples for i in range(len(x))
        }
        roll_ins = len(nodes)
    return roll_ins + sum(len(roll_out) for _, roll_out in samples)


# The layouts.


@pytest.fixture(scope="module")
def models() -> dict[str, Qwen2ForClassifier]:
    made = {}
    for name, loss in LOSSES.items():
        torch.manual_seed(0)
        # Values that differ from token to token.
        config = build_tiny_config(num_labels=loss.num_labels, initializer_range=0.2)
        made[name] = Qwen2ForClassifier._from_config(config, attn_implementation=SEGMENTED_SDPA)
    return made


def loss_and_gradients(
    model: ValueModel, loss_name: str, parts: list[list[Rollout]], packing: str, **kwargs
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of samples cut into micro batches, and its gradients."""
    loss = LOSSES[loss_name]
    batches = [collate(part, packing=packing, **{"max_length": 64, **kwargs}) for part in parts]
    num_terms = sum(int(loss.count_terms(batch.targets)) for batch in batches)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        logits = model(**batch.model_inputs(SEGMENTED_SDPA, CPU)).logits
        value = loss.function(batch.loss_logits(logits), batch.targets) / num_terms
        value.backward()
        total += value.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("max_length", [64, 26])  # 26: some samples lose all their loss tokens
def test_layouts_and_micro_batches_have_one_loss_and_gradient(models, loss, max_length):
    rollouts = cut_rollouts()
    model = models[loss]
    expected = loss_and_gradients(
        model, loss, [rollouts[i : i + 2] for i in range(0, 12, 2)], "padded", max_length=max_length
    )
    assert expected[0] > 0.01
    for packing in PACKINGS:
        for size, multiple in ((12, None), (4, 32)):
            parts = [rollouts[i : i + size] for i in range(0, 12, size)]
            value, gradients = loss_and_gradients(
                model, loss, parts, packing, max_length=max_length, multiple=multiple
            )
            assert value == pytest.approx(expected[0], rel=1e-5)
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    gradient, expected[1][name], atol=2e-6, rtol=1e-4, msg=name
                )


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_layouts_have_one_loss_and_gradient_in_every_family(family):
    torch.manual_seed(0)
    config = tiny_value_config(family, VOCAB_SIZE)
    model = VALUE_MODELS[family]._from_config(config, attn_implementation=SEGMENTED_SDPA)
    rollouts = cut_rollouts()
    pairs = [rollouts[i : i + 2] for i in range(0, 12, 2)]
    expected = loss_and_gradients(model, "cross_entropy", pairs, "padded")
    for packing in ("packed", "shared_prefix"):
        value, gradients = loss_and_gradients(model, "cross_entropy", [rollouts], packing)
        assert value == pytest.approx(expected[0], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[1][name], atol=2e-6, rtol=1e-4, msg=name)


def test_padded_loss_is_the_models_own(models):
    rollouts = cut_rollouts()
    batch = collate(rollouts, 64)
    mask = torch.zeros(batch.input_ids.numel(), dtype=torch.bool)
    mask[batch.loss_index] = True
    output = models["cross_entropy"](
        input_ids=batch.input_ids,
        labels=batch.targets.labels,
        loss_mask=mask.view(batch.input_ids.shape),
    )
    value, _ = loss_and_gradients(models["cross_entropy"], "cross_entropy", [rollouts], "packed")
    assert output.loss.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("max_length", [100, 26])
@pytest.mark.parametrize("multiple", [None, 32])
def test_batches_hold_the_samples(packing, max_length, multiple):
    rollouts = cut_rollouts()
    samples = [cut_sample(rollout, max_length) for rollout in rollouts]
    batch = collate(rollouts, max_length, packing, multiple)
    index = batch.loss_index.tolist()
    roll_outs = [roll_out for _, roll_out in samples]
    assert batch.input_ids.flatten()[index].tolist() == list(itertools.chain(*roll_outs))
    positions = [range(len(roll_in), len(roll_in) + len(out)) for roll_in, out in samples]
    assert batch.position_ids.flatten()[index].tolist() == list(itertools.chain(*positions))
    assert batch.lengths.tolist() == [len(roll_in) + len(out) for roll_in, out in samples]
    assert batch.targets.counts.tolist() == [len(out) for out in roll_outs]
    assert batch.targets.labels.tolist() == [rollout.label for rollout in rollouts]
    assert batch.targets.soft.tolist() == pytest.approx([x.soft_target for x in rollouts])
    assert batch.num_truncated == sum(
        len(x.roll_in) + len(x.roll_out) > max_length for x in rollouts
    )
    assert (batch.num_truncated > 0) == (max_length == 26)
    assert batch.input_ids.shape == batch.position_ids.shape
    assert batch.input_ids.dtype == batch.position_ids.dtype == batch.loss_index.dtype == torch.long
    # As long as it has to be, and no longer.
    least = max(batch.lengths.tolist())
    if packing != "padded":
        least = num_laid_out(rollouts, max_length, packing)
    unit = multiple or (PAD_MULTIPLE if packing == "padded" else 1)
    rows, width = batch.input_ids.shape
    assert rows == (len(rollouts) if packing == "padded" else 1)
    assert width % unit == 0
    assert least <= width < least + unit


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("max_length", [100, 26])
@pytest.mark.parametrize("multiple", [None, 128])
def test_token_counts(packing, max_length, multiple):
    rollouts = cut_rollouts()
    batch = collate(rollouts, max_length, packing, multiple)
    samples = [cut_sample(rollout, max_length) for rollout in rollouts]
    computed = num_laid_out(rollouts, max_length, packing)
    if packing == "padded":
        attended = sum(i + 1 for roll_in, out in samples for i in range(len(roll_in) + len(out)))
    else:
        attended = int(batch.layout.dense_mask()[:computed].sum())
    assert batch.counts._asdict() == {
        "all": batch.input_ids.numel(),
        "computed": computed,
        "valid": sum(len(roll_in) + len(out) for roll_in, out in samples),
        "loss": sum(len(out) for _, out in samples),
        "attended": attended,
    }


def test_a_packed_row_attends_within_sequences():
    rollouts = cut_rollouts(num_roll_ins=1)
    batch = collate(rollouts, 100, "packed", 64)
    mask = batch.layout.dense_mask()
    expected = torch.zeros_like(mask)
    start = 0
    for length in (*batch.lengths.tolist(), mask.shape[0] - sum(batch.lengths.tolist())):
        stop = start + length
        expected[start:stop, start:stop] = torch.ones(length, length, dtype=torch.bool).tril()
        start = stop
    assert torch.equal(mask, expected)
    assert batch.layout.is_flat
    shared = collate(rollouts, 100, "shared_prefix", 64)
    assert not shared.layout.is_flat
    # Nothing real attends to the padding, nor the padding to anything real.
    computed = shared.counts.computed
    mask = shared.layout.dense_mask()
    assert computed < len(mask)
    assert not mask[:computed, computed:].any()
    assert not mask[computed:, :computed].any()


def test_padding_is_on_the_right():
    rollouts = [
        Rollout(np.array([1, 2, 3]), np.array([4, 5]), 2),
        Rollout(np.array([6]), np.array([7, 8, 9]), 1),
    ]
    batch = collate(rollouts, max_length=100)
    assert batch.input_ids.shape == (2, PAD_MULTIPLE)
    assert batch.input_ids[:, :6].tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 0, 0]]
    assert batch.input_ids[:, 6:].eq(0).all()
    assert batch.loss_index.tolist() == [3, 4, PAD_MULTIPLE + 1, PAD_MULTIPLE + 2, PAD_MULTIPLE + 3]
    assert batch.targets.counts.tolist() == [2, 3]
    assert batch.targets.labels.tolist() == [2, 1]
    assert batch.targets.soft.isnan().all()
    mask = batch.model_inputs("flash_attention_2", CPU)["attention_mask"]
    assert mask[:, :6].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    assert mask.sum() == 9
    for implementation in ("sdpa", SEGMENTED_SDPA, "flex_attention"):
        assert set(batch.model_inputs(implementation, CPU)) == {"input_ids"}


@pytest.mark.parametrize("packing", PACKINGS)
def test_long_samples_are_cut_on_the_right(packing):
    rollouts = [
        Rollout(np.arange(3), np.arange(10, 15), 1),
        Rollout(np.arange(6), np.arange(2), 0),
        Rollout(np.arange(1), np.arange(2), 2),
        Rollout(np.arange(3), np.arange(20, 22), 1),
    ]
    batch = collate(rollouts, 5, packing)
    assert batch.num_truncated == 2
    assert batch.num_without_loss == 1
    assert batch.input_ids.flatten()[batch.loss_index].tolist() == [10, 11, 0, 1, 20, 21]
    assert batch.targets.counts.tolist() == [2, 0, 2, 2]
    assert batch.targets.labels.tolist() == [1, 0, 2, 1]
    assert batch.lengths.tolist() == [5, 5, 3, 5]


def test_width_is_rounded_up_only_as_needed():
    exact = Rollout(np.zeros(PAD_MULTIPLE - 1, dtype=int), np.zeros(1, dtype=int), 0)
    longer = Rollout(np.zeros(PAD_MULTIPLE, dtype=int), np.zeros(1, dtype=int), 0)
    assert collate([exact], 1000).input_ids.shape[1] == PAD_MULTIPLE
    assert collate([exact, longer], 1000).input_ids.shape[1] == 2 * PAD_MULTIPLE
    assert collate([exact], 1000, multiple=10).input_ids.shape[1] == 20


# Cutting a global batch into micro batches.


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


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_places_of_a_sequence_hold_its_tokens_at_their_positions(packing):
    for seed in range(20):
        rollouts = cut_rollouts(seed=seed)
        batch = collate(rollouts, 40, packing, multiple=8)
        for index, rollout in enumerate(rollouts):
            places = batch.sequence(index)
            sequence = list(itertools.chain(*cut_sample(rollout, 40)))
            assert batch.input_ids.flatten()[places].tolist() == sequence
            assert batch.position_ids.flatten()[places].tolist() == list(range(len(sequence)))
