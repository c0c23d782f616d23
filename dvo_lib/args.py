"""The flags of `train_dvo.py`, and the checks of their values."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from classifier_lib.args import PackingName
from classifier_lib.training.args import HubFlags
from run_lib.commands import InputError, at_least, positive
from run_lib.settings import free

PROGRAM = "train_dvo.py"


@dataclass(frozen=True)
class DvoArgs:
    """Train a policy with Direct Value Optimization under torchrun, or in one process.

    Flags that are `free` leave the weights as they are, but for rounding.
    """

    run_name: str
    """Name of the run; its folder is <output_dir>/<run_name>."""
    data_path: str
    """Paths with the reference policy's log-probabilities: Parquet file, or folder of such files,
    of which the train split is read."""
    model_path: str
    """Policy to start from (Hub id or folder; Llama, Mistral, OLMo 2, Qwen2, Qwen3 or SmolLM3,
    without sliding windows): the reference of the data."""
    output_dir: Path = free(Path("outputs"))
    """Folder of the runs; with several machines a shared one."""
    beta: float = 0.1
    """Temperature of the regularization towards the reference policy."""
    normalize: Literal["path", "step"] = "path"
    """What the loss is a mean over. path: paths, each the mean over its steps, as published. step:
    steps."""
    num_epochs: int = 3
    """Passes over the data: as many steps as they have whole batches."""
    num_steps: int | None = None
    """Optimizer steps, in place of --num_epochs."""
    total_batch_size: int = 16
    """Trees in an optimizer step, over all processes; a tree has up to 8 paths in the paper."""
    packing: PackingName = free("shared_prefix")
    """shared_prefix: the steps that paths of a tree share are computed once. packed: paths in one
    row without padding. padded: a path a row. The loss is the same."""
    tokens_per_micro_batch: int = free(16384)
    """Most tokens in one forward and backward of a process; a tree that is larger goes alone."""
    micro_batch_size: int = free(1)
    """Trees in one, for --packing padded."""
    max_lr: float = 5e-7
    """Largest learning rate, after the warm-up; the cosine ends at a tenth of it."""
    warmup_ratio: float = 0.1
    """Share of the steps that is linear warm-up."""
    weight_decay: float = 0.0
    """AdamW decay of tensors with two or more dimensions."""
    grad_norm_clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    seed: int = 0
    """Seed of the order of the data."""
    attention_impl: Literal["auto", "flash_attention_2", "flex_attention", "sdpa"] = free("auto")
    """auto: on a GPU flex_attention for shared prefixes, flash_attention_2 else if installed; or
    sdpa."""
    parallel: Literal["ddp", "fsdp", "hsdp"] = free("ddp")
    """ddp: all on every GPU. fsdp: weights, gradients and optimizer sharded over all GPUs. hsdp:
    sharded within a machine, copied to all machines."""
    gradient_checkpointing: bool = free(True)
    """Compute activations again in the backward pass: large trees fit, a third more time."""
    compile: bool = free(False)
    """Compile the decoder layers with torch.compile."""
    log_every: int = free(1)
    """Steps between two lines of metrics; the last step has one, too."""
    eval_data_path: str | None = free(None)
    """Paths of held-out trees, with the reference's log-probabilities, too; evaluated at the end,
    and by --eval_every."""
    eval_every: int = free(-1)
    """Steps between two evaluations on --eval_data_path; -1: at the end only."""
    save_every: int = free(200)
    """Steps between two checkpoints; -1: at the last step only."""
    max_keep_ckpts: int = free(2)
    """Checkpoints to keep; an old one is removed when the new one is complete."""
    resume_from: str | None = free(None)
    """Checkpoint of the run to go on from, e.g. step_400, instead of its newest one; later ones are
    set aside under another name."""
    max_bad_steps: int = free(10)
    """Consecutive steps with a loss or gradient that isn't finite before the run stops."""
    trackers: tuple[Literal["tensorboard", "neptune", "wandb"], ...] = free(())
    """Trackers besides metrics.jsonl; Neptune and wandb are offline without an API token."""
    neptune_project: str = free("vgs/train-dvo")
    """Neptune project, as workspace/project."""
    logger_tags: tuple[str, ...] = free(())
    """Tags of the run in Neptune and wandb."""
    hub: HubFlags = HubFlags()

    def check(self) -> None:
        """Raises InputError for values that no run of these processes can have."""
        check_flags(self, int(os.environ.get("WORLD_SIZE", "1")))


def check_flags(args: DvoArgs, world_size: int) -> None:
    """Raises InputError, naming the flags, if their values don't fit together."""
    at_least(
        1,
        num_epochs=args.num_epochs,
        num_steps=args.num_steps,
        total_batch_size=args.total_batch_size,
        tokens_per_micro_batch=args.tokens_per_micro_batch,
        micro_batch_size=args.micro_batch_size,
        log_every=args.log_every,
        max_keep_ckpts=args.max_keep_ckpts,
        max_bad_steps=args.max_bad_steps,
    )
    at_least(0, weight_decay=args.weight_decay, seed=args.seed)
    for name in ("eval_every", "save_every"):
        if getattr(args, name) < 1 and getattr(args, name) != -1:
            raise InputError(f"--{name} must be at least 1, or -1, got {getattr(args, name)}")
    positive(beta=args.beta, max_lr=args.max_lr)
    if not args.grad_norm_clip > 0:  # inf: no clipping
        raise InputError(f"--grad_norm_clip must be positive, got {args.grad_norm_clip}")
    if not 0 <= args.warmup_ratio < 1:
        raise InputError(f"--warmup_ratio must be in [0, 1), got {args.warmup_ratio}")
    if args.total_batch_size < world_size:
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is too few trees for {world_size} "
            "processes"
        )
    if args.packing == "padded" and args.total_batch_size % (args.micro_batch_size * world_size):
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is not a multiple of --micro_batch_size "
            f"{args.micro_batch_size} x {world_size} processes"
        )
