import math

import pytest
import torch

from classifier_lib.losses import LOSSES, bradley_terry_loss
from classifier_lib.modeling import terminal_class_loss


def example(num_labels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 7, num_labels, generator=generator)
    labels = torch.tensor([1, 0, 2, 1, 1, 1])
    loss_mask = torch.rand(6, 7, generator=generator) < 0.5
    loss_mask[:, -1] = True
    return logits, labels, loss_mask


def token_loss(logits: list[float], label: int) -> float:
    if len(logits) == 1:
        p = 1 / (1 + math.exp(-logits[0]))
        return -math.log(p if label == 1 else 1 - p)
    if len(logits) == 2:
        label = int(label == 1)
    return -math.log(math.exp(logits[label]) / sum(math.exp(x) for x in logits))


def reference_terminal_class_loss(logits, labels, loss_mask) -> float:
    means = []
    for row, label, mask in zip(logits.tolist(), labels.tolist(), loss_mask.tolist(), strict=True):
        losses = [token_loss(x, label) for x, counts in zip(row, mask, strict=True) if counts]
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def reference_bradley_terry_loss(logits, labels, loss_mask) -> float:
    losses = []
    for i in range(0, len(labels), 2):
        scores = [logits[i + j, loss_mask[i + j], 0].mean().item() for j in range(2)]
        rewards = [int(labels[i + j] == 1) for j in range(2)]
        if rewards[0] != rewards[1]:
            winner = rewards.index(1)
            losses.append(math.log(1 + math.exp(scores[1 - winner] - scores[winner])))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_terminal_class_loss_equals_the_formula(num_labels):
    logits, labels, loss_mask = example(num_labels)
    expected = reference_terminal_class_loss(logits, labels, loss_mask)
    assert terminal_class_loss(logits, labels, loss_mask).item() == pytest.approx(expected)
    assert terminal_class_loss(logits, labels, loss_mask.float()).item() == pytest.approx(expected)


def test_sample_without_loss_tokens_is_left_out():
    logits, labels, loss_mask = example(3)
    loss_mask[2] = False
    expected = reference_terminal_class_loss(logits, labels, loss_mask)
    assert terminal_class_loss(logits, labels, loss_mask).item() == pytest.approx(expected)
    assert terminal_class_loss(logits, labels, torch.zeros_like(loss_mask)) == 0


def test_loss_is_float32_for_bfloat16_logits():
    logits, labels, loss_mask = example(3)
    loss = terminal_class_loss(logits.bfloat16(), labels, loss_mask)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, terminal_class_loss(logits.bfloat16().float(), labels, loss_mask))


def test_bradley_terry_equals_the_formula():
    logits, labels, loss_mask = example(1)
    expected = reference_bradley_terry_loss(logits, labels, loss_mask)
    assert bradley_terry_loss(logits, labels, loss_mask).item() == pytest.approx(expected)


def test_bradley_terry_ignores_pairs_without_preference():
    logits, labels, loss_mask = example(1)
    logits.requires_grad_()
    bradley_terry_loss(logits, labels, loss_mask).backward()
    assert logits.grad is not None
    assert logits.grad[4:].eq(0).all()  # both correct
    assert logits.grad[:4][loss_mask[:4]].ne(0).all()  # every roll-out token learns
    assert bradley_terry_loss(logits, torch.ones_like(labels), loss_mask) == 0
    with pytest.raises(ValueError, match="even"):
        bradley_terry_loss(logits[:3], labels[:3], loss_mask[:3])


@pytest.mark.parametrize("name", LOSSES)
def test_parts_weighted_by_terms_add_up(name):
    function, num_labels, count_terms = LOSSES[name]
    logits, labels, loss_mask = example(num_labels)
    loss_mask[3] = False
    total = sum(
        function(logits[i : i + 2], labels[i : i + 2], loss_mask[i : i + 2])
        * count_terms(labels[i : i + 2], loss_mask[i : i + 2])
        for i in range(0, 6, 2)
    )
    expected = function(logits, labels, loss_mask) * count_terms(labels, loss_mask)
    torch.testing.assert_close(total, expected)
