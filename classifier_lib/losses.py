"""Training losses of the value model, by the name that `--loss` takes.

A loss works on the loss tokens of a batch, in any layout, and returns the sum of its terms (samples
or pairs): divided by the number of terms of the global batch, the parts of micro batches and
processes add up to the same mean however the batch was cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from classifier_lib.args import NUM_LABELS
from classifier_lib.modeling import SUCCESS_CLASS


@dataclass(frozen=True)
class Targets:
    """Targets of the N loss tokens of S samples; the tokens come sample by sample.

    Attributes:
        counts: LongTensor [S], loss tokens of each sample, N in all.
        labels: LongTensor [S], terminal classes.
        soft: FloatTensor [S] in [0, 1], see `Rollout.soft_target`; NaN where there is none.
    """

    counts: torch.Tensor
    labels: torch.Tensor
    soft: torch.Tensor

    @classmethod
    def of(
        cls, counts: Sequence[int], labels: Sequence[int], soft: Sequence[float | None]
    ) -> "Targets":
        """Makes targets from lists of S numbers."""
        values = [float("nan") if value is None else value for value in soft]
        return cls(torch.tensor(counts), torch.tensor(labels), torch.tensor(values))

    def to(self, device: torch.device) -> "Targets":
        """Returns the targets on a device."""
        return Targets(*(x.to(device) for x in (self.counts, self.labels, self.soft)))

    @property
    def rewards(self) -> torch.Tensor:
        """Rewards, a FloatTensor [S]: 1 for class 1 (finished and correct), else 0."""
        return (self.labels == SUCCESS_CLASS).float()

    def at_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Returns [N], for each loss token the entry of `values` [S] of its sample."""
        return values.repeat_interleave(self.counts)

    def sample_means(self, values: torch.Tensor) -> torch.Tensor:
        """Averages `values` [N] over each sample's loss tokens: [S], 0 for a sample without any."""
        samples = self.at_tokens(torch.arange(len(self.counts), device=values.device))
        sums = values.new_zeros(len(self.counts)).index_add(0, samples, values)
        return sums / self.counts.clamp(min=1)


class TrainingLoss(NamedTuple):
    """One choice of `--loss`.

    Attributes:
        function: `(logits [N, L], targets) -> sum of the terms`, a scalar in float32.
        num_labels: L, the number of logits it trains.
        count_terms: `targets -> number of terms in that sum`, an integer scalar tensor.
        pairs: Whether the terms are pairs of neighbouring samples.
        needs_soft: Whether it reads `Targets.soft`.
        token_losses: `(logits [N, L], targets) -> [N]`, the loss at each token in float32, whose
            means over samples are the terms; None for a loss of pairs.
    """

    function: Callable[[torch.Tensor, Targets], torch.Tensor]
    num_labels: int
    count_terms: Callable[[Targets], torch.Tensor]
    pairs: bool = False
    needs_soft: bool = False
    token_losses: Callable[[torch.Tensor, Targets], torch.Tensor] | None = None


def count_samples(targets: Targets) -> torch.Tensor:
    """Counts the samples that have a loss token."""
    return (targets.counts > 0).sum()


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Computes the cross-entropy of the terminal class at every roll-out token (VGS Section 2.1).

    `sum_(x,y,z,k) 1/|z| sum_h CE(f(x, y, z[:h]), k)`, over the samples of the batch.

    Args:
        logits: [N, 3]; of any dtype; computed in float32.
        targets: Their targets.

    Returns:
        Scalar in float32, the sum over samples.
    """
    return targets.sample_means(_token_cross_entropy(logits, targets)).sum()


def _token_cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Returns the cross-entropy at each loss token, [N]."""
    labels = targets.at_tokens(targets.labels)
    return F.cross_entropy(logits.float(), labels, reduction="none")


def binary_cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Computes the binary cross-entropy of the reward (1 for class 1 only) at every roll-out token.

    Args:
        logits: [N, 1], of any dtype; computed in float32.
        targets: Their targets.

    Returns:
        Scalar in float32, the sum over samples of the means over their tokens.
    """
    return targets.sample_means(_token_binary_cross_entropy(logits, targets)).sum()


def _token_binary_cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Returns the binary cross-entropy at each loss token, [N]."""
    rewards = targets.at_tokens(targets.rewards)
    return F.binary_cross_entropy_with_logits(logits.float().squeeze(-1), rewards, reduction="none")


def squared_error(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Computes the squared error of sigmoid(logit) to the soft target at every roll-out token.

    The soft target of a sample is the share of correct completions of its roll-in; with one
    completion a roll-in, as in OpenR1-VM, that is the reward.

    Args:
        logits: [N, 1], of any dtype; computed in float32.
        targets: Their targets.

    Returns:
        Scalar in float32, the sum over samples of the means over their tokens.
    """
    return targets.sample_means(_token_squared_error(logits, targets)).sum()


def _token_squared_error(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Returns the squared error at each loss token, [N]."""
    errors = logits.float().squeeze(-1).sigmoid() - targets.at_tokens(targets.soft)
    return errors.square()


def _ordered_pairs(targets: Targets) -> torch.Tensor:
    """Returns [S/2]: +1 if the first sample of a pair is the correct one, -1 if the second, else 0.

    A pair with a sample without loss tokens counts as one without preference.
    """
    if len(targets.labels) % 2:
        raise ValueError(f"pairs need an even number of samples, not {len(targets.labels)}")
    rewards = targets.rewards.view(-1, 2)
    usable = (targets.counts > 0).view(-1, 2).all(dim=1)
    return (rewards[:, 0] - rewards[:, 1]) * usable


def count_pairs(targets: Targets) -> torch.Tensor:
    """Counts the pairs with different rewards in which both samples have a loss token."""
    return _ordered_pairs(targets).ne(0).sum()


def pair_margins(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Returns the score of the correct sample of each pair minus the other's; 0 without preference.

    The score of a response is its mean logit over the roll-out tokens, so that every token learns:
    `s(z) = 1/|z| sum_h f(x, y, z[:h])`.

    Args:
        logits: [N, 1].
        targets: Of S samples, 2i and 2i + 1 being a pair.

    Returns:
        [S/2] in float32.

    Raises:
        ValueError: If S is odd.
    """
    order = _ordered_pairs(targets)
    scores = targets.sample_means(logits.float().squeeze(-1)).view(-1, 2)
    return order * (scores[:, 0] - scores[:, 1])


def bradley_terry(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Computes the Bradley-Terry preference loss over pairs of responses to one problem.

    `sum_(+,-) -log sigmoid(s(z+) - s(z-))` over the pairs of one response with reward 1 (class 1)
    and one with reward 0, with the scores of `pair_margins`.

    Args:
        logits: [N, 1]; of any dtype; computed in float32.
        targets: Of S samples, 2i and 2i + 1 being a pair.

    Returns:
        Scalar in float32, the sum over pairs; 0 without any pair of different rewards.

    Raises:
        ValueError: If S is odd.
    """
    losses = -F.logsigmoid(pair_margins(logits, targets))
    return (losses * _ordered_pairs(targets).ne(0)).sum()


LOSSES = {
    "cross_entropy": TrainingLoss(
        cross_entropy, NUM_LABELS["cross_entropy"], count_samples, token_losses=_token_cross_entropy
    ),
    "bce": TrainingLoss(
        binary_cross_entropy,
        NUM_LABELS["bce"],
        count_samples,
        token_losses=_token_binary_cross_entropy,
    ),
    "mse": TrainingLoss(
        squared_error,
        NUM_LABELS["mse"],
        count_samples,
        needs_soft=True,
        token_losses=_token_squared_error,
    ),
    "bradley_terry": TrainingLoss(
        bradley_terry, NUM_LABELS["bradley_terry"], count_pairs, pairs=True
    ),
}
"""The paper's loss first."""
