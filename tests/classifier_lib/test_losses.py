import math

import pytest
import torch

from classifier_lib.losses import LOSSES, Targets, pair_margins
from classifier_lib.modeling import terminal_class_loss

COUNTS = [3, 1, 0, 5, 2, 4, 2, 2]
LABELS = [1, 0, 1, 2, 1, 1, 2, 1]
SOFT = [0.75, 0.0, 0.5, 0.25, 1.0, 1.0, 0.0, 0.4]

Sample = tuple[list[list[float]], int, float]


def example(num_labels: int, seed: int = 0) -> tuple[torch.Tensor, Targets]:
    """Eight samples, one of them without loss tokens; pair 0 and 3 have a preference."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(sum(COUNTS), num_labels, generator=generator)
    return logits, Targets.of(COUNTS, LABELS, SOFT)


def samples_of(logits: torch.Tensor, targets: Targets) -> list[Sample]:
    """Logits, label and soft target of each sample."""
    rows, start = [], 0
    for count, label, soft in zip(
        targets.counts.tolist(), targets.labels.tolist(), targets.soft.tolist(), strict=True
    ):
        rows.append((logits[start : start + count].tolist(), label, soft))
        start += count
    return rows


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def token_losses(name: str, logits: list[float], label: int, soft: float) -> float:
    if name == "cross_entropy":
        return -math.log(math.exp(logits[label]) / sum(math.exp(x) for x in logits))
    (logit,) = logits
    if name == "bce":
        return -math.log(sigmoid(logit) if label == 1 else 1 - sigmoid(logit))
    return (sigmoid(logit) - soft) ** 2


def reference(name: str, samples: list[Sample]) -> tuple[float, int]:
    """Sum and number of the terms."""
    terms = []
    if name == "bradley_terry":
        for pair in zip(samples[::2], samples[1::2], strict=True):
            correct = [label == 1 for _, label, _ in pair]
            if correct[0] != correct[1] and all(logits for logits, _, _ in pair):
                scores = [sum(x for (x,) in logits) / len(logits) for logits, _, _ in pair]
                winner = correct.index(True)
                terms.append(math.log(1 + math.exp(scores[1 - winner] - scores[winner])))
    else:
        for tokens, label, soft in samples:
            if tokens:
                losses = [token_losses(name, logits, label, soft) for logits in tokens]
                terms.append(sum(losses) / len(losses))
    return sum(terms), len(terms)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_the_formula(name, seed):
    loss = LOSSES[name]
    logits, targets = example(loss.num_labels, seed)
    total, num_terms = reference(name, samples_of(logits, targets))
    assert num_terms == (2 if name == "bradley_terry" else 7)
    value = loss.function(logits, targets)
    assert value.shape == ()
    assert value.item() == pytest.approx(total, rel=1e-5)
    assert int(loss.count_terms(targets)) == num_terms


def test_what_the_losses_say_of_themselves():
    assert {name: loss.num_labels for name, loss in LOSSES.items()} == {
        "cross_entropy": 3,
        "bce": 1,
        "mse": 1,
        "bradley_terry": 1,
    }
    assert [name for name, loss in LOSSES.items() if loss.pairs] == ["bradley_terry"]
    assert [name for name, loss in LOSSES.items() if loss.needs_soft] == ["mse"]


@pytest.mark.parametrize("name", LOSSES)
def test_logits_in_bfloat16_are_computed_in_float32(name):
    loss = LOSSES[name]
    logits, targets = example(loss.num_labels)
    value = loss.function(logits.bfloat16(), targets)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss.function(logits.bfloat16().float(), targets))
    assert not torch.equal(value, loss.function(logits, targets))


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up(name):
    """Loss, number of terms and gradient, however the samples are shared out."""
    loss = LOSSES[name]
    logits, targets = example(loss.num_labels)
    whole = logits.clone().requires_grad_()
    expected = loss.function(whole, targets)
    expected.backward()
    for size in (2, 4, 6):
        values, terms, gradients, start = 0.0, 0, [], 0
        for first in range(0, len(COUNTS), size):
            part = slice(first, first + size)
            stop = start + sum(COUNTS[part])
            inputs = logits[start:stop].clone().requires_grad_()
            part_targets = Targets.of(COUNTS[part], LABELS[part], SOFT[part])
            value = loss.function(inputs, part_targets)
            value.backward()
            values, terms, start = (
                values + value.item(),
                terms + loss.count_terms(part_targets),
                stop,
            )
            gradients.append(inputs.grad)
        assert values == pytest.approx(expected.item(), rel=1e-5)
        assert terms == loss.count_terms(targets)
        torch.testing.assert_close(torch.cat(gradients), whole.grad)


@pytest.mark.parametrize("name", LOSSES)
def test_without_any_loss_token_the_loss_is_zero(name):
    loss = LOSSES[name]
    targets = Targets.of([0, 0], [0, 1], [0.0, 1.0])
    logits = torch.zeros(0, loss.num_labels, requires_grad=True)
    value = loss.function(logits, targets)
    value.backward()
    assert value == 0
    assert loss.count_terms(targets) == 0


def test_mse_is_to_the_soft_target_whatever_the_label():
    logits, targets = example(1)
    function = LOSSES["mse"].function
    other_labels = Targets.of(COUNTS, [2] * 8, SOFT)
    assert torch.equal(function(logits, targets), function(logits, other_labels))
    for value in (0.0, 0.3, 1.0):
        perfect = torch.full((sum(COUNTS), 1), math.log(value / (1 - value)) if value % 1 else 40.0)
        perfect *= -1 if value == 0 else 1
        assert function(perfect, Targets.of(COUNTS, LABELS, [value] * 8)) < 1e-10
    # Without one there is nothing to learn from: no number that looks like a loss.
    assert function(logits, Targets.of(COUNTS, LABELS, [None] * 8)).isnan()


def test_only_a_finished_and_correct_response_has_a_reward():
    assert example(1)[1].rewards.tolist() == [1, 0, 1, 0, 1, 1, 0, 1]


def test_bradley_terry_learns_from_all_tokens_of_pairs_with_a_preference():
    logits, targets = example(1)
    logits.requires_grad_()
    LOSSES["bradley_terry"].function(logits, targets).backward()
    samples = logits.grad.split(COUNTS)
    for i in (0, 7):  # the correct ones
        assert (samples[i] < 0).all()
    for i in (1, 6):
        assert (samples[i] > 0).all()
    # Pair 1: one without tokens; pair 2: both correct.
    assert all(samples[i].eq(0).all() for i in (2, 3, 4, 5))


def test_pair_margins():
    logits, targets = example(1)
    margins = pair_margins(logits, targets)
    means = [
        sum(x for (x,) in tokens) / max(len(tokens), 1)
        for tokens, _, _ in samples_of(logits, targets)
    ]
    assert margins.tolist() == pytest.approx([means[0] - means[1], 0, 0, means[7] - means[6]])


@pytest.mark.parametrize("function", [pair_margins, LOSSES["bradley_terry"].function])
def test_an_odd_number_of_samples_makes_no_pairs(function):
    logits, _ = example(1)
    with pytest.raises(ValueError, match="pairs need an even number of samples, not 3"):
        function(logits[:4], Targets.of(COUNTS[:3], LABELS[:3], SOFT[:3]))


def test_an_odd_number_of_samples_has_no_terms():
    with pytest.raises(ValueError, match="pairs need an even number of samples, not 3"):
        LOSSES["bradley_terry"].count_terms(Targets.of(COUNTS[:3], LABELS[:3], SOFT[:3]))


# The loss that a model returns by itself: [B, T, L] and a mask.


def as_rows(logits: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """The same tokens among others: logits [B, T, L] and the mask of the loss tokens [B, T]."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(COUNTS), 9, logits.shape[-1], generator=generator)
    mask = torch.zeros(len(COUNTS), 9, dtype=torch.bool)
    for i, part in enumerate(logits.split(COUNTS)):
        columns = torch.randperm(9, generator=generator)[: len(part)].sort().values
        rows[i, columns] = part
        mask[i, columns] = True
    return rows, mask


@pytest.mark.parametrize(("name", "num_labels"), [("cross_entropy", 3), ("bce", 1)])
def test_terminal_class_loss_is_the_mean(name, num_labels):
    logits, targets = example(num_labels)
    rows, mask = as_rows(logits, targets)
    total, num_terms = reference(name, samples_of(logits, targets))
    for loss_mask in (mask, mask.float()):
        value = terminal_class_loss(rows, targets.labels, loss_mask)
        assert value.item() == pytest.approx(total / num_terms, rel=1e-5)
    function, count = LOSSES[name].function, LOSSES[name].count_terms
    torch.testing.assert_close(value, function(logits, targets) / count(targets))


def test_terminal_class_loss_with_two_labels():
    logits, targets = example(2)
    rows, mask = as_rows(logits, targets)
    means = []
    for tokens, label, _ in samples_of(logits, targets):
        losses = [math.log(1 + math.exp(x[label != 1] - x[label == 1])) for x in tokens]
        means += [sum(losses) / len(losses)] if losses else []
    value = terminal_class_loss(rows, targets.labels, mask)
    assert value.item() == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_terminal_class_loss_is_float32_and_zero_without_tokens():
    logits, targets = example(3)
    rows, mask = as_rows(logits, targets)
    value = terminal_class_loss(rows.bfloat16(), targets.labels, mask)
    assert value.dtype == torch.float32
    assert torch.equal(value, terminal_class_loss(rows.bfloat16().float(), targets.labels, mask))
    assert terminal_class_loss(rows, targets.labels, torch.zeros_like(mask)) == 0
