"""Micro batches: one loss and one gradient, whatever the layout."""

import itertools

import numpy as np
import pytest
import torch

from classifier_lib.attention import SEGMENTED_SDPA
from classifier_lib.batches import PAD_MULTIPLE, collate
from classifier_lib.data import Rollout
from classifier_lib.layouts import MIN_SHARED
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import VALUE_MODELS, Qwen2ForClassifier, ValueModel
from tests.support.laid_out import cut_sample, num_laid_out
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
