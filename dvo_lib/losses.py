"""The loss of Direct Value Optimization (DVO, arXiv 2502.13723, eq. 10).

As in `classifier_lib.losses`, a loss returns the sum of its terms: divided by the number of terms
of the global batch, micro batches and processes add up to the same mean however it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Normalization = Literal["path", "step"]


@dataclass(frozen=True)
class StepTargets:
    """Targets of the N trained tokens of S paths with M steps; tokens come step by step.

    Attributes:
        tokens_per_step: LongTensor [M], trained tokens of each step, N in all.
        steps_per_path: LongTensor [S], steps of each path, M in all.
        credits: FloatTensor [M], `V(s_t+1) + r(s_t, a_t) - V(s_t)`. At the level of responses a
            path is one step with the credit `r - V(s_0)`.
        reference: FloatTensor [M], log-probability of each step under the reference policy.
        correct: BoolTensor [S], whether the path has the right answer.
    """

    tokens_per_step: torch.Tensor
    steps_per_path: torch.Tensor
    credits: torch.Tensor
    reference: torch.Tensor
    correct: torch.Tensor

    def to(self, device: torch.device) -> "StepTargets":
        """Returns the targets on a device."""
        return StepTargets(*(tensor.to(device) for tensor in vars(self).values()))

    def log_ratios(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Returns `log(pi / pi_ref)` of each step, [M] in float32.

        Args:
            logprobs: [N], log-probability of each trained token under the policy.
        """
        sums = _sums(logprobs.float(), self.tokens_per_step)
        return sums - self.reference.float()

    def path_sums(self, values: torch.Tensor) -> torch.Tensor:
        """Adds up `values` [M] of the steps of each path: [S]."""
        return _sums(values, self.steps_per_path)


@dataclass(frozen=True)
class DvoLoss:
    """`1/2 (beta * log(pi / pi_ref) - credit)^2` of each step, summed as `normalize` says.

    Attributes:
        beta: Temperature of the regularization towards the reference policy.
        normalize: What a term is. path: the mean over the steps of a path, as published, so that
            every path counts the same. step: a step, so that every step does.
    """

    beta: float = 0.1
    normalize: Normalization = "path"

    def __call__(self, logprobs: torch.Tensor, targets: StepTargets) -> torch.Tensor:
        """Returns the sum of the terms, a scalar in float32.

        Args:
            logprobs: [N], log-probability of each trained token, of any dtype.
            targets: Their targets.
        """
        errors = self.beta * targets.log_ratios(logprobs) - targets.credits.float()
        return TERMS[self.normalize](0.5 * errors.square(), targets)

    def count_terms(self, targets: StepTargets) -> torch.Tensor:
        """Returns the number of terms in that sum, an integer scalar."""
        counts = targets.steps_per_path if self.normalize == "path" else targets.tokens_per_step
        return (counts > 0).sum()


def _mean_of_paths(losses: torch.Tensor, targets: StepTargets) -> torch.Tensor:
    return (targets.path_sums(losses) / targets.steps_per_path.clamp(min=1)).sum()


def _sum_of_steps(losses: torch.Tensor, targets: StepTargets) -> torch.Tensor:
    return losses.sum()


TERMS: dict[Normalization, Callable[[torch.Tensor, StepTargets], torch.Tensor]] = {
    "path": _mean_of_paths,
    "step": _sum_of_steps,
}


def _sums(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Adds up consecutive values, `counts` of them at a time; 0 where the count is 0."""
    owners = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
    return values.new_zeros(len(counts)).index_add(0, owners, values)
