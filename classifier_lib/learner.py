"""A value model together with its loss: the part that training and evaluation share."""

from dataclasses import dataclass

import torch
from torch import nn

from classifier_lib.batches import Batch
from classifier_lib.losses import TrainingLoss
from run_lib.processes import Processes


@dataclass(frozen=True)
class Learner:
    """A value model and its loss, on the processes of a run.

    Attributes:
        model: `Qwen2ForClassifier`, parallel where there are several processes.
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
