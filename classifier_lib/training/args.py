"""The flags of `train_classifier.py`, and the checks of their values."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from classifier_lib.args import NUM_LABELS, LossName, PackingName, default_token_limit
from run_lib.commands import InputError, at_least, positive
from run_lib.settings import free

PROGRAM = "train_classifier.py"

NUM_STEPS = 4000

NOT_SUPPORTED = {
    "dataset_name": "--data_path takes a Hub id, Parquet file or folder, or save_to_disk folder",
    "label_key": "labels are read from the column `labels`; datasets' rename_column renames yours",
}
"""Published flags that there are not here, and what to use instead."""


@dataclass(frozen=True)
class HubFlags:
    """What of a run goes to the Hugging Face Hub."""

    push_to_hub: bool = free(False)
    """Push the final model, with a model card of this run, to the Hugging Face Hub."""
    push_checkpoints: bool = free(False)
    """Also push every checkpoint, while training goes on: step N to <hub_model_id>-step-N."""
    hub_model_id: str | None = free(None)
    """Repository to push to; the run's name by default."""


@dataclass(frozen=True)
class TrainArgs:
    """Train a token-level value model under torchrun, or in one process.

    Flags that are `free` leave the weights as they are, but for rounding and the draws of dropout.
    """

    run_name: str
    """Name of the run; its folder is <output_dir>/<run_name>."""
    data_path: str = "VGS-AI/OpenR1-VM"
    """Training roll-outs: Hub id, Parquet file or folder, or save_to_disk folder."""
    model_path: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    """Policy to start from (Hub id or folder; Llama, Qwen2 or Qwen3), or a value model to train
    further."""
    output_dir: Path = free(Path("outputs"))
    """Folder of the runs; with several machines a shared one."""
    data_num_response: int = 8
    """Responses in every row of the data (56 in OpenR1-VM)."""
    dataset_size: int = -1
    """Train on the first so many rows of --data_path; -1: on all."""
    skip_bad_rows: bool = False
    """Leave out rows that can't be trained on, and name them, instead of ending."""
    num_steps: int = NUM_STEPS
    """Optimizer steps; -1: those of 5 epochs."""
    num_epochs: int | None = None
    """Passes over the data, in place of --num_steps: as many steps as they have whole batches."""
    total_batch_size: int = 128
    """Samples in an optimizer step, over all processes."""
    micro_batch_size: int = free(4)
    """Samples in one forward and backward of a process, for --packing padded and in evaluation."""
    tokens_per_micro_batch: int = free(-1)
    """Most tokens in one, for the other packings; -1: --micro_batch_size x --max_length, at most
    65,536."""
    packing: PackingName = free("packed")
    """packed: sequences in one row without padding. shared_prefix: the prefixes that the roll-ins
    of a group share are also computed once. padded: as published. The loss is the same."""
    small_group_size: int = 2
    """Neighbouring responses of a problem (4 of one roll-in in OpenR1-VM) that stay together in a
    micro batch; divides --data_num_response."""
    max_length: int = 16384
    """Longest sequence in tokens, prompt included; the rest is cut."""
    loss: LossName | None = None
    """cross_entropy over 3 terminal classes (the paper's, and the default), bce on the reward, mse
    to the share of correct completions of the roll-in (in OpenR1-VM one: the reward), or
    bradley_terry on pairs."""
    num_labels: int | None = free(None)
    """Published spelling: 3 is --loss cross_entropy, 1 without a --loss is bce."""
    train_bt_model: bool = free(False)
    """Published spelling of --loss bradley_terry."""
    max_lr: float = 1e-4
    """Largest learning rate, after the warm-up; the cosine ends at a tenth of it."""
    warmup_steps: int = -1
    """Steps of linear warm-up; -1: max(5 % of the steps, 100), at most half of the run."""
    disable_lr_schedule: bool = False
    """Train at --max_lr throughout, without warm-up and cosine."""
    beta1: float = 0.9
    """AdamW's decay of the mean of the gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of their squares."""
    grad_norm_clip: float = 5.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    weight_decay: float = 0.1
    """AdamW decay of tensors with two or more dimensions."""
    attention_dropout: Annotated[float, tyro.conf.arg(aliases=["--p_dropout"])] = 0.05
    """Dropout probability in attention (flex_attention has none) and before the head. The published
    spelling works, too."""
    seed: int = 0
    """Seed of the new head, the order of the data and the dropout."""
    attention_impl: Literal["auto", "flash_attention_2", "flex_attention", "sdpa"] = free("auto")
    """auto: on a GPU flex_attention for shared prefixes, flash_attention_2 else if installed; or
    sdpa."""
    parallel: Literal["ddp", "fsdp", "hsdp"] = free("ddp")
    """ddp: all on every GPU. fsdp: weights, gradients and optimizer sharded over all GPUs. hsdp:
    sharded within a machine, copied to all machines."""
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of weights and optimizer state; computing is in bfloat16 on GPUs either way."""
    gradient_checkpointing: bool = free(True)
    """Compute activations again in the backward pass: long sequences fit, a third more time."""
    compile: bool = free(False)
    """Compile the decoder layers with torch.compile."""
    log_every: int = free(1)
    """Steps between two lines of metrics; the last step has one, too."""
    eval_data_path: Annotated[str | None, tyro.conf.arg(aliases=["--validation_data_path"])] = free(
        None
    )
    """Held-out roll-outs in the same columns; evaluated at the end, and by --eval_every. The
    published spelling works, too."""
    eval_size: int = free(128)
    """Evaluate on the first so many rows of --eval_data_path; -1: on all."""
    eval_every: int = free(200)
    """Steps between two evaluations on --eval_data_path, if there is one; -1: at the end only."""
    save_every: int = free(200)
    """Steps between two checkpoints; -1: at the last step only."""
    max_keep_ckpts: int = free(20)
    """Checkpoints to keep; an old one is removed when the new one is complete."""
    resume_from: str | None = free(None)
    """Checkpoint of the run to go on from, e.g. step_400, instead of its newest one; later ones are
    set aside under another name."""
    max_bad_steps: int = free(10)
    """Consecutive steps with a loss or gradient that isn't finite before the run stops."""
    trackers: tuple[Literal["tensorboard", "neptune", "wandb"], ...] = free(())
    """Trackers besides metrics.jsonl; Neptune and wandb are offline without an API token."""
    track: bool = free(False)
    """The same as --trackers neptune."""
    neptune_project: str = free("vgs/train-classifier")
    """Neptune project, as workspace/project."""
    logger_tags: tuple[str, ...] = free(())
    """Tags of the run in Neptune and wandb."""
    hub: HubFlags = HubFlags()

    def check(self) -> None:
        """Raises InputError for values that no run of these processes can have."""
        check_flags(resolve_loss(self), int(os.environ.get("WORLD_SIZE", "1")))


def resolve_loss(args: TrainArgs) -> TrainArgs:
    """Returns the flags with the loss in `loss`, in whichever spelling it was given.

    Raises:
        InputError: If they mean two losses, or none.
    """
    loss = args.loss
    if args.train_bt_model:
        if loss not in (None, "bradley_terry"):
            raise InputError(f"--train_bt_model is --loss bradley_terry, not {loss}")
        loss = "bradley_terry"
    if args.num_labels == 1:
        loss = loss or "bce"
    loss = loss or "cross_entropy"
    if args.num_labels not in (None, NUM_LABELS[loss]):
        raise InputError(
            f"--num_labels {args.num_labels} is not of --loss {loss}, which has {NUM_LABELS[loss]}"
        )
    return replace(args, loss=loss, num_labels=None, train_bt_model=False)


def check_flags(args: TrainArgs, world_size: int) -> None:
    """Raises InputError, naming the flags, if their values don't fit together."""
    at_least(
        1,
        data_num_response=args.data_num_response,
        num_epochs=args.num_epochs,
        total_batch_size=args.total_batch_size,
        micro_batch_size=args.micro_batch_size,
        small_group_size=args.small_group_size,
        max_length=args.max_length,
        log_every=args.log_every,
        max_keep_ckpts=args.max_keep_ckpts,
        max_bad_steps=args.max_bad_steps,
    )
    at_least(0, weight_decay=args.weight_decay, seed=args.seed)
    or_minus_one = ("num_steps", "dataset_size", "eval_size", "eval_every", "save_every")
    for name in (*or_minus_one, "tokens_per_micro_batch"):
        if getattr(args, name) < 1 and getattr(args, name) != -1:
            raise InputError(f"--{name} must be at least 1, or -1, got {getattr(args, name)}")
    if args.num_epochs is not None and args.num_steps not in (NUM_STEPS, -1):
        raise InputError(
            f"--num_steps {args.num_steps} and --num_epochs {args.num_epochs} are two lengths of "
            "one run: give one"
        )
    if args.disable_lr_schedule and args.warmup_steps != -1:
        raise InputError(f"--disable_lr_schedule has no --warmup_steps {args.warmup_steps}")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise InputError(f"--{name} must be in [0, 1), got {getattr(args, name)}")
    positive(max_lr=args.max_lr)
    if not args.grad_norm_clip > 0:  # inf: no clipping
        raise InputError(f"--grad_norm_clip must be positive, got {args.grad_norm_clip}")
    if not 0 <= args.attention_dropout < 1:
        raise InputError(f"--attention_dropout must be in [0, 1), got {args.attention_dropout}")
    for name in ("data_num_response", "total_batch_size"):
        if getattr(args, name) % args.small_group_size:
            raise InputError(
                f"--{name} {getattr(args, name)} is not a multiple of --small_group_size "
                f"{args.small_group_size}"
            )
    if args.loss == "bradley_terry" and args.small_group_size % 2:
        raise InputError(
            f"--loss bradley_terry pairs responses: --small_group_size {args.small_group_size} "
            "must be even"
        )
    if args.loss == "bradley_terry" and args.micro_batch_size % 2:
        raise InputError(
            f"--loss bradley_terry pairs responses: --micro_batch_size {args.micro_batch_size} "
            "must be even"
        )
    if args.packing == "padded":
        _check_padded(args, world_size)
    else:
        _check_packed(args, world_size)


def _check_padded(args: TrainArgs, world_size: int) -> None:
    """Checks the flags of `--packing padded`."""
    if args.tokens_per_micro_batch != -1:
        raise InputError(
            f"--tokens_per_micro_batch {args.tokens_per_micro_batch} is for packed micro batches; "
            "--packing padded has --micro_batch_size"
        )
    if args.total_batch_size % (args.micro_batch_size * world_size):
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is not a multiple of --micro_batch_size "
            f"{args.micro_batch_size} x {world_size} processes"
        )
    if args.micro_batch_size % args.small_group_size:
        raise InputError(
            f"--micro_batch_size {args.micro_batch_size} is not a multiple of "
            f"--small_group_size {args.small_group_size}"
        )


def _check_packed(args: TrainArgs, world_size: int) -> None:
    """Checks the flags of the other packings."""
    num_groups = args.total_batch_size // args.small_group_size
    if num_groups < world_size:
        raise InputError(
            f"--total_batch_size {args.total_batch_size} has {num_groups} groups of "
            f"--small_group_size {args.small_group_size}, too few for {world_size} processes"
        )
    samples = 2 if args.loss == "bradley_terry" else 1
    limit = args.tokens_per_micro_batch
    if limit == -1:
        limit = default_token_limit(args.micro_batch_size, args.max_length)
    if limit < samples * args.max_length:
        raise InputError(
            f"--tokens_per_micro_batch: {limit:,} tokens don't hold {samples} sample(s) of "
            f"--max_length {args.max_length:,}"
        )
