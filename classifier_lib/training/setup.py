"""Set-up of a training run: its data and the plan of its steps, its model and the optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from classifier_lib.attention import FLEX_BLOCK, choose_attention, leave_out_flex_dropout
from classifier_lib.batches import BatchPlan, PackingName
from classifier_lib.data import GroupedRollouts, GroupSampler, format_bad_rows
from classifier_lib.flops import ModelSize
from classifier_lib.learner import Learner
from classifier_lib.loading import (
    has_sliding_window,
    initialize_from_policy,
    load_policy_config,
)
from classifier_lib.losses import LOSSES
from classifier_lib.training.args import TrainArgs
from classifier_lib.training.parallel import parallelize
from classifier_lib.training.step import build_optimizer, default_warmup_steps
from classifier_lib.training.throughput import Throughput
from run_lib.commands import InputError, naming
from run_lib.processes import Processes

NUM_EPOCHS = 5
"""Epochs of `--num_steps -1` without `--num_epochs`: those of the paper."""


@dataclass(frozen=True)
class TrainingData:
    """Data of a run, and the plan of its steps.

    Attributes:
        rollouts: Roll-outs to train on.
        held_out: Roll-outs to evaluate on; None if there are none.
        sampler: Order of the roll-outs.
        num_steps: Optimizer steps of the run.
        warmup_steps: Those of them that are the warm-up.
    """

    rollouts: GroupedRollouts
    held_out: GroupedRollouts | None
    sampler: GroupSampler
    num_steps: int
    warmup_steps: int


@dataclass(frozen=True)
class TrainingModel:
    """Model of a run, with its optimizer and the plan of its micro batches.

    Attributes:
        learner: The model, spread over the processes, and its loss.
        optimizer: Its optimizer.
        plan: Plan by which global batches are cut into micro batches.
        throughput: Speed since the last line of metrics.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    plan: BatchPlan
    throughput: Throughput


def check_model(packing: PackingName, source: str) -> int:
    """Returns the size of the vocabulary of the model to start from, without loading its weights.

    Args:
        packing: Layout of the micro batches.
        source: Hub id or folder of the model, or the checkpoint that the run continues from.

    Raises:
        InputError: If there is no such model, or it can't be trained in this layout.
    """
    with naming("--model_path"):
        config = load_policy_config(source)
    if has_sliding_window(config) and packing != "padded":
        raise InputError(
            f"--packing {packing}: {source} has sliding-window attention, which packed rows "
            "don't have; use --packing padded"
        )
    return config.vocab_size


def load_data(
    args: TrainArgs, vocab_size: int, state: dict[str, Any] | None, processes: Processes
) -> TrainingData:
    """Opens and checks the data, and plans the steps; every process calls this.

    Args:
        args: The flags.
        vocab_size: Exclusive upper bound of the token ids.
        state: State of the checkpoint that the run continues from, which has checked its data;
            None for a new run.
        processes: The processes of the run.

    Raises:
        InputError: Naming the flag and, if it is one, the row at fault.
    """
    left_out = state["left_out"] if state else None
    rollouts = _open("--data_path", args.data_path, args, vocab_size, left_out, processes)
    if args.dataset_size > 0:
        rollouts.keep_first(args.dataset_size)
    held_out = None
    if args.eval_data_path:
        held_out = _open("--eval_data_path", args.eval_data_path, args, vocab_size, None, processes)
        if args.eval_size > 0:
            held_out.keep_first(args.eval_size)
    sampler = GroupSampler(
        rollouts.num_rows, rollouts.num_responses, args.small_group_size, args.seed
    )
    if state:
        with naming(f"--data_path {args.data_path}:"):
            sampler.load_state_dict(state["sampler"])
    return TrainingData(rollouts, held_out, sampler, *plan_steps(args, len(rollouts)))


def _open(
    flag: str,
    source: str,
    args: TrainArgs,
    vocab_size: int,
    left_out: Sequence[int] | None,
    processes: Processes,
) -> GroupedRollouts:
    """Opens one data set; checks it unless the rows that fail the checks are known."""
    with naming(flag):
        data = GroupedRollouts(
            source,
            args.data_num_response,
            vocab_size if left_out is None else None,
            skip_bad_rows=args.skip_bad_rows,
            left_out=left_out or (),
            soft_targets=LOSSES[args.loss or "cross_entropy"].needs_soft,
            processes=processes,
        )
    if processes.rank == 0 and data.bad_rows:
        tqdm.write(f"{flag}: {format_bad_rows(data.bad_rows)}")
    return data


def plan_steps(args: TrainArgs, num_samples: int) -> tuple[int, int]:
    """Returns the optimizer steps of the run, and how many of them are the warm-up.

    Raises:
        InputError: If a step needs more samples than there are, or all steps are warm-up.
    """
    if args.total_batch_size > num_samples:
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is more than the {num_samples} samples of "
            f"--data_path {args.data_path}"
        )
    num_steps = args.num_steps
    if num_steps == -1 or args.num_epochs is not None:
        num_epochs = args.num_epochs or NUM_EPOCHS
        num_steps = num_epochs * num_samples // args.total_batch_size
    warmup_steps = 0 if args.disable_lr_schedule else args.warmup_steps
    if warmup_steps == -1:
        warmup_steps = default_warmup_steps(num_steps)
    if not 0 <= warmup_steps < num_steps:
        raise InputError(
            f"--warmup_steps {warmup_steps} must be at least 0 and less than the {num_steps} steps"
        )
    return num_steps, warmup_steps


def build_model(args: TrainArgs, source: str, processes: Processes) -> TrainingModel:
    """Loads the model and spreads it over the processes; every process calls this.

    Args:
        args: The flags.
        source: See `check_model`.
        processes: The processes of the run.

    Raises:
        InputError: If the model or the attention can't be used.
    """
    loss = LOSSES[args.loss or "cross_entropy"]
    device = processes.device
    with naming("--attention_impl"):
        implementation = choose_attention(args.attention_impl, args.packing, device)
    plan = BatchPlan(
        args.packing,
        args.max_length,
        args.micro_batch_size,
        args.tokens_per_micro_batch if args.tokens_per_micro_batch > 0 else None,
        args.small_group_size,
        loss.pairs,
        FLEX_BLOCK if implementation == "flex_attention" else None,
    )
    dtype = getattr(torch, args.param_dtype)
    torch.manual_seed(args.seed)
    with naming("--model_path"):
        model = initialize_from_policy(
            source, loss.num_labels, args.attention_dropout, implementation, dtype
        )
    leave_out_flex_dropout(model)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` untyped
    model.train()
    throughput = Throughput(ModelSize.of(model), processes.world_size, device)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.compile:
        for layer in model.model.layers:  # one compilation serves all layers
            layer.compile()
    with naming("--parallel"):
        parallel_model = parallelize(model, args.parallel, processes)
    betas = args.beta1, args.beta2
    optimizer = build_optimizer(parallel_model, args.max_lr, args.weight_decay, betas)
    learner = Learner(parallel_model, loss, implementation, processes)
    return TrainingModel(learner, optimizer, plan, throughput)
