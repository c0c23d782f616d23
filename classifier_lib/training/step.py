"""Parts of the training loop: optimizer, schedule, and one step.

Hyperparameters are those of VGS appendix E.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from classifier_lib.flops import TokenCounts
from classifier_lib.learner import Loaded, StepLearner
from classifier_lib.training.parallel import clip_gradients, gradient_sync

ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-6
GRADIENT_CLIP = 5.0
FINAL_LR_RATIO = 0.1


def build_optimizer(
    model: nn.Module,
    max_lr: float,
    weight_decay: float,
    betas: tuple[float, float] = ADAM_BETAS,
) -> torch.optim.AdamW:
    """Returns fused AdamW; tensors of fewer than two dimensions (norms, biases) have no decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=max_lr, betas=betas, eps=ADAM_EPS, fused=True)


def default_warmup_steps(num_steps: int) -> int:
    """Returns the paper's max(5 % of the steps, 100), but at most half of a short run."""
    return min(max(math.ceil(0.05 * num_steps), 100), num_steps // 2)


def learning_rate(step: int, num_steps: int, warmup_steps: int, max_lr: float) -> float:
    """Returns the learning rate of a step: linear warm-up, then cosine to 0.1 of the maximum.

    Args:
        step: Step, counted from 0. Step `warmup_steps` is the first at `max_lr` after the ramp.
        num_steps: Steps of the run.
        warmup_steps: Steps of the ramp, fewer than `num_steps`.
        max_lr: Largest learning rate.
    """
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(num_steps - 1 - warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return max_lr * (FINAL_LR_RATIO + (1 - FINAL_LR_RATIO) * cosine)


@dataclass(frozen=True)
class StepResult:
    """Result of one step over the whole global batch; the same on every process.

    Attributes:
        loss: Mean loss.
        grad_norm: Norm of the gradient before clipping.
        counts: Tokens by kind.
        num_truncated: Samples cut to the maximum length.
        num_without_loss: Those of them that have no loss token left.
        skipped: Whether loss or gradient wasn't finite, so that no weight was changed.
    """

    loss: float
    grad_norm: float
    counts: TokenCounts
    num_truncated: int
    num_without_loss: int
    skipped: bool


def train_step(
    learner: StepLearner[Loaded],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Loaded],
    seed: int,
    step: int,
    stop_requested: Callable[[], bool] = lambda: False,
    max_norm: float = GRADIENT_CLIP,
) -> StepResult | None:
    """Takes one optimizer step on this process's micro batches of the global batch.

    The loss is the mean over the terms of the global batch however it is cut up. Dropout is drawn
    from (seed, step, process, micro batch), so it needs no saved state; for padded micro batches it
    doesn't depend on the number of processes, for packed ones it does.

    Args:
        learner: The model and its loss.
        optimizer: Its optimizer, with the learning rate of this step.
        batches: This process's micro batches; every process has as many.
        seed: Seed of the run.
        step: This step, from 0.
        stop_requested: Tells whether this process was asked to stop; it is asked before and between
            the micro batches.
        max_norm: Norm to which longer gradients are scaled down.

    Returns:
        The result, the same on every process; None if the step was given up, as any process was
        asked to stop.
    """
    model, processes = learner.model, learner.processes
    device = processes.device
    own = [
        sum(learner.count_terms(batch) for batch in batches),
        sum(batch.num_truncated for batch in batches),
        sum(batch.num_without_loss for batch in batches),
        int(stop_requested()),
        *np.sum([batch.counts for batch in batches], axis=0).tolist(),
    ]
    totals = processes.sum(torch.tensor(own, dtype=torch.int64, device=device)).tolist()
    num_terms, num_truncated, num_without_loss, num_stop, *counts = totals
    if num_stop:
        return None

    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    any_told: Callable[[], bool] | None = None
    for i, batch in enumerate(batches):
        is_last = i == len(batches) - 1
        if any_told and any_told():
            optimizer.zero_grad(set_to_none=True)
            return None
        any_told = None if is_last else processes.start_any(stop_requested)
        torch.manual_seed(_derive_seed(seed, step, i * processes.world_size + processes.rank))
        with gradient_sync(model, last=is_last):
            batch_loss = learner.loss_sum(batch)
            # Gradients are averaged over processes where the loss needs a sum: hence world_size.
            (batch_loss * (processes.world_size / max(num_terms, 1))).backward()
        loss_sum += batch_loss.detach()
        batch.free()
    mean_loss = float(processes.sum(loss_sum)) / max(num_terms, 1)
    # The norm is that of all processes, so all of them take the same branch below.
    grad_norm = clip_gradients(model, max_norm)
    finite = math.isfinite(mean_loss) and math.isfinite(grad_norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(
        mean_loss, grad_norm, TokenCounts(*counts), num_truncated, num_without_loss, not finite
    )


def _derive_seed(*parts: int) -> int:
    """Returns a seed for the dropout of one micro batch."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
