"""The flags of `scripts.trl_train`, and the checks of their values."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from run_lib.commands import InputError, at_least, positive
from run_lib.settings import free

PROGRAM = "scripts.trl_train"


@dataclass(frozen=True)
class TrlArgs:
    """Train a policy with TRL under torchrun, or in one process.

    The defaults are the settings of the DVO paper's baselines (Appendix C).
    """

    method: Literal["sft", "dpo", "kto"]
    """sft: supervised, on files of --format rft or of data_prep.dvo sft. dpo: on files of --format
    dpo or step_dpo. kto: on files of --format kto."""
    run_name: str
    """Name of the run; its folder is <output_dir>/<run_name>."""
    data_path: Path
    """File of JSON lines with token ids, of data_prep.dvo export or sft."""
    model_path: str
    """Policy to start from (Hub id or folder), whose token ids these are; for dpo and kto it is the
    reference, too."""
    output_dir: Path = free(Path("outputs"))
    """Folder of the runs; with several machines a shared one."""
    beta: float = 0.1
    """Temperature of the regularization towards the reference policy, for dpo and kto."""
    num_epochs: int = 3
    """Passes over the data: as many steps as they have whole batches. The paper has 1 for the
    supervised training before round one."""
    total_batch_size: int = 128
    """Lines in an optimizer step, over all processes. The paper has 128 for its supervised
    training, and says none for the baselines."""
    micro_batch_size: int = 8
    """Lines in one forward and backward of a process (TRL's default). For kto at least 2: it pairs
    prompts with the completions of others in the micro batch."""
    max_lr: float = 5e-7
    """Largest learning rate, after the warm-up; the cosine ends at a tenth of it. The paper has
    2e-5 for the supervised training before round one."""
    warmup_ratio: float = 0.1
    """Share of the steps that is linear warm-up."""
    max_length: int | None = None
    """Most tokens of a prompt with its completion; longer lines are left out whole, and counted. By
    default the context of the policy."""
    seed: int = 0
    """Seed of the order of the data."""
    gradient_checkpointing: bool = free(True)
    """Compute activations again in the backward pass: less memory, a third more time."""
    log_every: int = free(1)
    """Steps between two lines of metrics."""
    save_every: int = free(200)
    """Steps between two checkpoints, of which the newest two are kept; one is saved at the end."""

    def check(self) -> None:
        """Raises InputError for values that no run of these processes can have."""
        check_flags(self, int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.output_dir / self.run_name


def check_flags(args: TrlArgs, world_size: int) -> None:
    """Raises InputError, naming the flags, if their values don't fit together."""
    at_least(
        1,
        num_epochs=args.num_epochs,
        total_batch_size=args.total_batch_size,
        micro_batch_size=args.micro_batch_size,
        max_length=args.max_length,
        log_every=args.log_every,
        save_every=args.save_every,
    )
    at_least(0, seed=args.seed)
    positive(beta=args.beta, max_lr=args.max_lr)
    if not 0 <= args.warmup_ratio < 1:
        raise InputError(f"--warmup_ratio must be in [0, 1), got {args.warmup_ratio}")
    if args.total_batch_size % (args.micro_batch_size * world_size):
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is not a multiple of "
            f"--micro_batch_size {args.micro_batch_size} x {world_size} processes"
        )
    if args.method == "kto" and args.micro_batch_size < 2:
        raise InputError(f"--micro_batch_size {args.micro_batch_size}: kto needs at least 2")
