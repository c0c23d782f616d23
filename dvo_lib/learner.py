"""A policy together with its loss, and its evaluation on held-out trees."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from classifier_lib.learner import evaluation_batches
from dvo_lib.data import TreePaths
from dvo_lib.losses import DvoLoss
from dvo_lib.metrics import PathMetrics
from dvo_lib.tree_batches import TreeBatch, TreePlan
from run_lib.processes import Processes


@dataclass(frozen=True)
class PolicyLearner:
    """A policy and its loss, on the processes of a run.

    Attributes:
        model: `TokenLogprobs`, parallel where there are several processes.
        loss: Loss that it is trained with.
        implementation: Attention implementation of the model.
        processes: The processes of the run.
        metrics: Metrics of the batches whose loss was computed.
    """

    model: nn.Module
    loss: DvoLoss
    implementation: str
    processes: Processes
    metrics: PathMetrics

    def count_terms(self, batch: TreeBatch) -> int:
        """Returns the number of terms in the loss of a batch."""
        return int(self.loss.count_terms(batch.targets))

    def loss_sum(self, batch: TreeBatch) -> torch.Tensor:
        """Returns the sum of the terms, with its gradient; computed in bfloat16 on GPUs."""
        device = self.processes.device
        inputs = batch.model_inputs(self.implementation, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logprobs = self.model(**inputs)
        targets = batch.targets.to(device)
        loss = self.loss(logprobs, targets)
        num_terms = self.loss.count_terms(targets)
        self.metrics.add(logprobs, targets, batch.paths_per_tree.to(device), loss, num_terms)
        return loss


@torch.no_grad()
def evaluate(
    learner: PolicyLearner,
    data: TreePaths,
    plan: TreePlan,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Evaluates a policy on held-out trees; all processes of the learner must call this.

    Args:
        learner: The policy, perhaps sharded, and its loss; its training mode is restored.
        data: The trees.
        plan: Layout of the micro batches.
        stop_requested: Tells whether this process was asked to stop, which ends the evaluation on
            all of them.

    Returns:
        See `PathMetrics.report`.

    Raises:
        ToldToStop: On every process, if one was asked to stop.
    """
    model, processes = learner.model, learner.processes
    metrics = PathMetrics(learner.loss.beta, processes)
    counted = replace(learner, metrics=metrics)
    idle = replace(learner, metrics=PathMetrics(learner.loss.beta, processes))
    for batch, counts in evaluation_batches(model, processes, plan, data, stop_requested):
        (counted if counts else idle).loss_sum(batch)
    return metrics.report()
