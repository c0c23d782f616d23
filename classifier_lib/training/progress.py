"""Progress of a training run: its steps, and those that were skipped."""

from dataclasses import dataclass
from typing import Any

from classifier_lib.training.step import StepResult
from run_lib.commands import RunStopped


class Diverged(RunStopped):
    """Loss or gradient was not finite in too many consecutive steps."""


@dataclass
class Progress:
    """Progress of a run; changes with every step.

    Attributes:
        sampler: State of the sampler after the last step.
        step: Steps done, skipped ones included.
        num_bad: Skipped steps, in which loss or gradient wasn't finite.
        bad_in_a_row: Consecutive skipped steps up to the last step.
        num_truncated: Samples cut to the maximum length since the last line of metrics.
        num_without_loss: Those of them that had no loss token left.
        all_without_loss: The same since the start of the run.
        saved_step: Step of the newest checkpoint; 0 before the first one.
    """

    sampler: dict[str, int]
    step: int = 0
    num_bad: int = 0
    bad_in_a_row: int = 0
    num_truncated: int = 0
    num_without_loss: int = 0
    all_without_loss: int = 0
    saved_step: int = 0

    @classmethod
    def resume(cls, state: dict[str, Any]) -> "Progress":
        """Returns the progress of a checkpoint, from its saved state."""
        names = ("sampler", "step", "num_bad", "bad_in_a_row")
        lost = state.get("all_without_loss", 0)  # not in checkpoints of earlier versions
        kept = {name: state[name] for name in names}
        return cls(**kept, all_without_loss=lost, saved_step=state["step"])

    def state(self) -> dict[str, Any]:
        """Returns the part of the state that a checkpoint saves."""
        return {
            "step": self.step,
            "sampler": self.sampler,
            "num_bad": self.num_bad,
            "bad_in_a_row": self.bad_in_a_row,
            "all_without_loss": self.all_without_loss,
        }

    def add(self, result: StepResult, sampler: dict[str, int], max_bad: int) -> None:
        """Counts a step.

        Args:
            result: Result of the step.
            sampler: State of the sampler after it.
            max_bad: Consecutive skipped steps that end the run.

        Raises:
            Diverged: If there were so many.
        """
        self.step += 1
        self.sampler = sampler
        self.num_truncated += result.num_truncated
        self.num_without_loss += result.num_without_loss
        self.all_without_loss += result.num_without_loss
        self.num_bad += result.skipped
        self.bad_in_a_row = self.bad_in_a_row + 1 if result.skipped else 0
        if self.bad_in_a_row >= max_bad:
            raise Diverged(
                f"loss or gradient not finite in {self.bad_in_a_row} consecutive steps, the last "
                f"one step {self.step}; the weights were not changed by them"
            )
