"""Set-up of a DVO run: its data and the plan of its steps, its policy and the optimizer."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.data import GroupSampler
from classifier_lib.flops import ModelSize
from classifier_lib.training.parallel import parallelize, unwrap
from classifier_lib.training.step import build_optimizer
from classifier_lib.training.throughput import Throughput
from dvo_lib.args import DvoArgs
from dvo_lib.data import TreePaths
from dvo_lib.learner import PolicyLearner
from dvo_lib.losses import DvoLoss
from dvo_lib.metrics import PathMetrics
from dvo_lib.policy import TokenLogprobs, load_policy
from dvo_lib.tree_batches import TreePlan
from run_lib.commands import InputError, naming
from run_lib.processes import Processes


@dataclass(frozen=True)
class TrainingData:
    """Data of a run, and the plan of its steps.

    Attributes:
        trees: Trees to train on.
        held_out: Trees to evaluate on; None if there are none.
        sampler: Order of the trees.
        num_steps: Optimizer steps of the run.
        warmup_steps: Those of them that are the warm-up.
    """

    trees: TreePaths
    held_out: TreePaths | None
    sampler: GroupSampler
    num_steps: int
    warmup_steps: int


@dataclass(frozen=True)
class TrainingPolicy:
    """Policy of a run, with its optimizer and the plan of its micro batches.

    Attributes:
        learner: The policy, spread over the processes, and its loss.
        optimizer: Its optimizer.
        plan: Plan by which global batches are cut into micro batches.
        throughput: Speed since the last line of metrics.
        generation: Settings that the policy generates with; training leaves them as they are.
    """

    learner: PolicyLearner
    optimizer: torch.optim.Optimizer
    plan: TreePlan
    throughput: Throughput
    generation: GenerationConfig | None


def load_data(args: DvoArgs, vocab_size: int, state: dict[str, Any] | None) -> TrainingData:
    """Opens and checks the data, and plans the steps.

    Args:
        args: The flags.
        vocab_size: Exclusive upper bound of the token ids.
        state: State of the checkpoint that the run continues from; None for a new run.

    Raises:
        InputError: Naming the flag and, if it is one, the row at fault.
    """
    with naming("--data_path"):
        trees = TreePaths(args.data_path, vocab_size)
    held_out = None
    if args.eval_data_path:
        with naming("--eval_data_path"):
            held_out = TreePaths(args.eval_data_path, vocab_size)
    sampler = GroupSampler(len(trees), 1, 1, args.seed)
    if state:
        with naming(f"--data_path {args.data_path}:"):
            sampler.load_state_dict(state["sampler"])
    return TrainingData(trees, held_out, sampler, *plan_steps(args, len(trees)))


def plan_steps(args: DvoArgs, num_trees: int) -> tuple[int, int]:
    """Returns the optimizer steps of the run, and how many of them are the warm-up.

    Raises:
        InputError: If a step needs more trees than there are.
    """
    if args.total_batch_size > num_trees:
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is more than the {num_trees} trees of "
            f"--data_path {args.data_path}"
        )
    num_steps = args.num_steps or args.num_epochs * num_trees // args.total_batch_size
    return num_steps, int(args.warmup_ratio * num_steps)


def build_policy(args: DvoArgs, source: str, processes: Processes) -> TrainingPolicy:
    """Loads the policy and spreads it over the processes; every process calls this.

    Args:
        args: The flags.
        source: Hub id or folder of the model, or the checkpoint that the run continues from.
        processes: The processes of the run.

    Raises:
        InputError: If the model or the attention can't be used.
    """
    device = processes.device
    with naming("--attention_impl"):
        implementation = choose_attention(args.attention_impl, args.packing, device)
    plan = TreePlan(
        args.packing,
        # Packed micro batches are limited by their tokens alone.
        args.micro_batch_size if args.packing == "padded" else sys.maxsize,
        args.tokens_per_micro_batch,
        FLEX_BLOCK if implementation == "flex_attention" else None,
    )
    with naming("--model_path"):
        model = load_policy(source, implementation)
    generation = model.generation_config
    policy = TokenLogprobs(model).to(device).train()
    throughput = Throughput(ModelSize.of(model), processes.world_size, device)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.compile:
        for layer in unwrap(policy).base_model.layers:  # type: ignore[union-attr]  # one compilation serves all layers
            layer.compile()
    with naming("--parallel"):
        parallel_policy = parallelize(policy, args.parallel, processes)
    optimizer = build_optimizer(parallel_policy, args.max_lr, args.weight_decay)
    loss = DvoLoss(args.beta, args.normalize)
    metrics = PathMetrics(args.beta, processes)
    learner = PolicyLearner(parallel_policy, loss, implementation, processes, metrics)
    return TrainingPolicy(learner, optimizer, plan, throughput, generation)
