"""The flags of the toy task's commands."""

from dataclasses import dataclass
from pathlib import Path

from run_lib.commands import at_least

PROBLEMS = "data_prep.toy.problems"
POLICY = "data_prep.toy.policy"


@dataclass(frozen=True)
class ProblemsConfig:
    """Problems of the toy task."""

    output: Path
    """Parquet file to write."""
    num_problems: int = 1500
    """Problems, those of all splits together."""
    seed: int = 0
    """Seed of the problems."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, num_problems=self.num_problems)


@dataclass(frozen=True)
class PolicyConfig:
    """Supervised fine-tuning of the toy policy."""

    output_dir: Path
    """Folder to write the model to."""
    num_steps: int = 1600
    """Optimizer steps; the loss is flat by the default."""
    batch_size: int = 8
    """Traces a step. Larger batches learn less from as many tokens."""
    lr: float = 3e-3
    """Maximum learning rate: linear warm-up over the first tenth, then cosine to a twentieth."""
    seed: int = 0
    """Seed of the weights, the problems and the teacher's noise."""
