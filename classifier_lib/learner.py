"""A model together with its loss: the part that training and evaluation share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from classifier_lib.batches import Batch, MicroBatchPlan
from classifier_lib.flops import TokenCounts
from classifier_lib.losses import TrainingLoss
from run_lib.processes import Processes, ToldToStop


class MicroBatch(Protocol):
    """What a step of training asks of a micro batch of any kind."""

    @property
    def counts(self) -> TokenCounts:
        """Tokens by kind."""

    @property
    def num_truncated(self) -> int:
        """Samples that were cut to the maximum length."""

    @property
    def num_without_loss(self) -> int:
        """Those of them that have no loss token left."""

    def free(self) -> None:
        """Drops what the layers of a model keep of this batch."""


Loaded = TypeVar("Loaded", bound=MicroBatch, contravariant=True)


class StepLearner(Protocol[Loaded]):
    """What a step of training asks of a model and its loss."""

    @property
    def model(self) -> nn.Module:
        """The model, parallel where there are several processes."""

    @property
    def processes(self) -> Processes:
        """The processes of the run."""

    def count_terms(self, batch: Loaded) -> int:
        """Returns the number of terms in the loss of a batch."""

    def loss_sum(self, batch: Loaded) -> torch.Tensor:
        """Returns the sum of the terms, a scalar with its gradient."""


@dataclass(frozen=True)
class Learner:
    """A value model and its loss, on the processes of a run.

    Attributes:
        model: A `ValueModel`, parallel where there are several processes.
        loss: Loss that it is trained with.
        implementation: Attention implementation of the model.
        processes: The processes of the run.
    """

    model: nn.Module
    loss: TrainingLoss
    implementation: str
    processes: Processes

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns the logits [N, L] of the loss tokens of a batch; computed in bfloat16 on GPUs."""
        device = self.processes.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = self.model(**batch.model_inputs(self.implementation, device)).logits
        return batch.loss_logits(logits)

    def count_terms(self, batch: Batch) -> int:
        """Returns the number of terms in the loss of a batch."""
        return int(self.loss.count_terms(batch.targets))

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """Returns the sum of the terms, a scalar with its gradient."""
        targets = batch.targets.to(self.processes.device)
        return self.loss.function(self.logits(batch), targets)


Evaluated = TypeVar("Evaluated")


def evaluation_batches(
    model: nn.Module,
    processes: Processes,
    plan: MicroBatchPlan[Any, Evaluated],
    data: Any,
    stop_requested: Callable[[], bool],
) -> Iterator[tuple[Evaluated, bool]]:
    """Yields the micro batches that this process evaluates, with the model in evaluation mode.

    Every process gets as many, and computes all of them: the others may need its shard.

    Args:
        model: The model, perhaps sharded; its training mode is restored at the end.
        processes: The processes of the run, all of which must do this.
        plan: Layout of the micro batches.
        data: The data set.
        stop_requested: Tells whether this process was asked to stop.

    Yields:
        A micro batch, and whether it counts: one that only keeps the others company doesn't.

    Raises:
        ToldToStop: On every process, if any was asked to stop.
    """
    was_training = model.training
    model.eval()
    parts = plan.in_order(data)
    any_told: Callable[[], bool] | None = None
    try:
        for first in range(0, len(parts), processes.world_size):
            if any_told and any_told():
                raise ToldToStop
            any_told = processes.start_any(stop_requested)
            mine = first + processes.rank
            counts = mine < len(parts)
            yield plan.load(data, parts[mine if counts else 0]), counts
    finally:
        model.train(was_training)
