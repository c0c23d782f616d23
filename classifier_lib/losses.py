"""Training losses of the value model, by the name that `--loss` takes.

A loss is a mean of terms (samples, or pairs), so a batch cut into micro batches and ranks needs the
number of terms in each part to add up to the same value: that is `TrainingLoss.count_terms`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from classifier_lib.modeling import (
    SUCCESS_CLASS,
    TokenLossFunction,
    mean_over_tokens,
    terminal_class_loss,
)


class TrainingLoss(NamedTuple):
    """One choice of `--loss`.

    Attributes:
        function: Mean loss of a batch, for `model.loss_function`.
        num_labels: Number of logits it trains.
        count_terms: `(labels [B], loss_mask [B, T]) -> number of terms in that mean`, an integer
            scalar tensor.
    """

    function: TokenLossFunction
    num_labels: int
    count_terms: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def count_samples(labels: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Counts the samples that have a loss token."""
    return loss_mask.bool().any(dim=1).sum()


def _ordered_pairs(labels: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Returns +1, -1 or 0 [B/2]: which row of each pair is the correct one, 0 for no preference."""
    if labels.shape[0] % 2:
        raise ValueError(f"a batch of pairs needs an even number of rows, not {labels.shape[0]}")
    rewards = (labels == SUCCESS_CLASS).long().view(-1, 2)
    usable = loss_mask.bool().any(dim=1).view(-1, 2).all(dim=1)
    return (rewards[:, 0] - rewards[:, 1]) * usable


def count_pairs(labels: torch.Tensor, loss_mask: torch.Tensor) -> torch.Tensor:
    """Counts the pairs with different rewards in which both rows have a loss token."""
    return _ordered_pairs(labels, loss_mask).ne(0).sum()


def bradley_terry_loss(
    logits: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor
) -> torch.Tensor:
    """Bradley-Terry preference loss over pairs of responses to one problem.

    Rows 2i and 2i+1 are a pair. With the score of a response `s(z) = 1/|z| sum_h f(x, y, z[:h])`,
    its mean logit over the roll-out tokens, so that every token learns:

    `1/|P| sum_(+,-) -log sigmoid(s(z+) - s(z-))`

    over the pairs P of one response with reward 1 (class 1) and one with reward 0. Pairs with equal
    rewards contribute nothing.

    Args:
        logits: [B, T, 1]; computed in float32 whatever the dtype.
        labels: LongTensor [B], terminal classes.
        loss_mask: [B, T], 1 on roll-out tokens.

    Returns:
        Scalar in float32; 0 without any pair of different rewards.

    Raises:
        ValueError: If B is odd.
    """
    order = _ordered_pairs(labels, loss_mask)
    scores = mean_over_tokens(logits.float().squeeze(-1), loss_mask).view(-1, 2)
    losses = -F.logsigmoid(order * (scores[:, 0] - scores[:, 1]))
    counted = order.ne(0)
    return (losses * counted).sum() / counted.sum().clamp(min=1)


LOSSES = {
    "cross_entropy": TrainingLoss(terminal_class_loss, 3, count_samples),
    "bce": TrainingLoss(terminal_class_loss, 1, count_samples),
    "bradley_terry": TrainingLoss(bradley_terry_loss, 1, count_pairs),
}
"""The paper's loss first; `bce` is the same with one logit."""
