r"""Train a token-level value model on grouped roll-outs (Value-Guided Search, arXiv 2505.17373).

On a CPU, with a small Qwen2 policy and data in the columns of OpenR1-VM:

    python train_classifier.py --data_path data/toy_vm --data_num_response 8 \
        --model_path outputs/toy_policy --num_steps 500 --total_batch_size 64 \
        --micro_batch_size 16 --max_lr 1e-3 --max_length 256 --run_name toy_value

On the GPUs of one machine:

    torchrun --standalone --nproc_per_node=4 train_classifier.py --data_path VGS-AI/OpenR1-VM \
        --data_num_response 56 --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --num_steps 12170 --total_batch_size 64 --micro_batch_size 8 --run_name single_node_run

Everything goes to <output_dir>/<run_name>: config.json, metrics.jsonl, checkpoints step_N/, in the
end final/ and evaluation.json. Killed at any moment, the same command goes on from the newest
checkpoint and arrives at the same weights. Several machines need a shared output folder.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
import transformers
import tyro
from safetensors import SafetensorError
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from classifier_lib.atomic_files import atomic_folder, write_json
from classifier_lib.data import DataError, GroupedRollouts, GroupSampler, collate_padded
from classifier_lib.evaluation import (
    EVALUATION_FILE,
    evaluate,
    format_evaluation,
    scalar_metrics,
)
from classifier_lib.fingerprints import DATA_FILES, MODEL_FILES, fingerprint
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import initialize_from_policy
from classifier_lib.training import (
    Processes,
    build_optimizer,
    default_warmup_steps,
    differing_flags,
    distributed,
    exit_with_error,
    learning_rate,
    load_trainer_state,
    newest_checkpoint,
    open_rollouts,
    push_folder,
    read_tokenizer,
    remove_leftovers,
    save_checkpoint,
    train_step,
    write_model,
)
from loggers import open_trackers
from search_lib.errors import InputError

PROGRAM = "train_classifier.py"
BUCKET_TOKENS = 1024
"""Width of the position buckets of the evaluation, in tokens."""


@dataclass(frozen=True)
class TrainArgs:
    """Train a token-level value model under torchrun, or in one process."""

    data_path: str
    """Training roll-outs: Hub id, Parquet file or folder, or save_to_disk folder."""
    model_path: str
    """Policy to start from (Hub id or folder, Qwen2), or a value model to train further."""
    run_name: str
    """Name of the run; its folder is <output_dir>/<run_name>."""
    output_dir: Path = Path("outputs")
    """Folder of the runs."""
    data_num_response: int = 56
    """Responses in every row of the data."""
    num_steps: int = -1
    """Optimizer steps; -1: as many as --num_epochs has whole batches."""
    num_epochs: int = 5
    """Passes over the data when --num_steps is -1."""
    total_batch_size: int = 1024
    """Samples in an optimizer step, over all processes."""
    micro_batch_size: int = 8
    """Samples in one forward and backward of a process."""
    small_group_size: int = 2
    """Responses of one problem that stay together in a micro batch; divides --data_num_response."""
    max_length: int = 17408
    """Longest sequence in tokens (16,384 of response + 1,024 for the prompt); the rest is cut."""
    loss: Literal["cross_entropy", "bce", "bradley_terry"] = "cross_entropy"
    """cross_entropy over 3 terminal classes (the paper's), bce on the reward, or pairs."""
    max_lr: float = 1e-4
    """Largest learning rate, after the warm-up; the cosine ends at a tenth of it."""
    warmup_steps: int = -1
    """Steps of linear warm-up; -1: max(5 % of the steps, 100), at most half of the run."""
    weight_decay: float = 0.1
    """AdamW decay of tensors with two or more dimensions."""
    attention_dropout: float = 0.05
    """Dropout probability in attention and before the head."""
    seed: int = 0
    """Seed of the new head, the order of the data and the dropout."""
    attention_impl: str = "sdpa"
    """Attention implementation of transformers; flash_attention_2 falls back to sdpa."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass: long sequences fit, a third more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    log_every: int = 1
    """Steps between two lines of metrics."""
    eval_data_path: str | None = None
    """Held-out roll-outs in the same columns; evaluated at the end, and by --eval_every."""
    eval_every: int = -1
    """Steps between two evaluations; -1: at the end only."""
    save_every: int = -1
    """Steps between two checkpoints; -1: at the last step only."""
    max_keep_ckpts: int = 2
    """Checkpoints to keep; an old one goes when the new one is whole."""
    max_bad_steps: int = 10
    """Steps in a row with a loss or gradient that isn't finite before the run gives up."""
    track: bool = False
    """Log to Neptune besides metrics.jsonl; offline without an API token."""
    neptune_project: str = "vgs/train-classifier"
    """Neptune project, as workspace/project."""
    push_to_hub: bool = False
    """Push the final model to the Hugging Face Hub."""
    hub_model_id: str | None = None
    """Repository to push to; the run's name by default."""


MAY_CHANGE_ON_RESUME = frozenset(
    {
        "output_dir",
        "micro_batch_size",
        "attention_impl",
        "gradient_checkpointing",
        "compile",
        "log_every",
        "eval_data_path",
        "eval_every",
        "save_every",
        "max_keep_ckpts",
        "max_bad_steps",
        "track",
        "neptune_project",
        "push_to_hub",
        "hub_model_id",
    }
)
"""Flags that leave the weights as they are, but for rounding and the draws of dropout."""


def parse_args(argv: Sequence[str] | None = None) -> TrainArgs:
    """Returns the flags of a command line, by default this process's."""
    return tyro.cli(TrainArgs, args=argv, prog=PROGRAM, description=__doc__, use_underscores=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    # Its warning of a new head is expected; initialize_from_policy checks what else is missing.
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with distributed() as processes:
            train(args, processes)
    except InputError as error:
        exit_with_error(PROGRAM, str(error))


def train(args: TrainArgs, processes: Processes) -> None:
    """Trains, evaluates and saves a value model; every process calls this.

    Raises:
        InputError: If a flag or an input can't be used.
    """
    check_flags(args, processes.world_size)
    is_main = processes.rank == 0
    run_dir = args.output_dir / args.run_name
    final_dir = run_dir / "final"
    config = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(args).items()
    }
    # Of what the paths hold, so that retrained policies and new roll-outs are other runs.
    config["fingerprints"] = {
        "model_path": fingerprint(args.model_path, MODEL_FILES),
        "data_path": fingerprint(args.data_path, DATA_FILES),
    }
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint or final_dir.exists():
        refuse_other_config(run_dir, config)
    if final_dir.exists():
        if is_main:
            print(f"the run is finished: {final_dir}")
            push_final(args, final_dir)
        return

    # Load the data and plan the run; the model comes last, when all the rest is known to be right.
    model_source = checkpoint or args.model_path
    try:
        vocab_size = transformers.AutoConfig.from_pretrained(model_source).vocab_size
        tokenizer = read_tokenizer(model_source) if is_main else {}
    except (OSError, ValueError) as error:
        raise InputError(f"--model_path {model_source}: {error}") from error
    data = load_data("--data_path", args.data_path, args, vocab_size, processes)
    eval_data = None
    if args.eval_data_path:
        eval_data = load_data("--eval_data_path", args.eval_data_path, args, vocab_size, processes)
    sampler = GroupSampler(data.num_rows, data.num_responses, args.small_group_size, args.seed)
    num_steps = args.num_steps
    if num_steps == -1:
        num_steps = args.num_epochs * len(data) // args.total_batch_size
        if not num_steps:
            raise InputError(
                f"--num_epochs {args.num_epochs} of {len(data)} samples are less than one "
                f"--total_batch_size {args.total_batch_size}"
            )
    warmup_steps = args.warmup_steps
    if warmup_steps == -1:
        warmup_steps = default_warmup_steps(num_steps)
    if not 0 <= warmup_steps < num_steps:
        raise InputError(
            f"--warmup_steps {warmup_steps} must be at least 0 and less than the {num_steps} steps"
        )

    # Load the model.
    loss = LOSSES[args.loss]
    torch.manual_seed(args.seed)
    try:
        model = initialize_from_policy(
            model_source, loss.num_labels, args.attention_dropout, args.attention_impl
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--model_path {model_source}: {error}") from error
    model.loss_function = loss.function
    model.to(processes.device)  # type: ignore[arg-type]  # transformers wraps `to` untyped
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.compile:
        model.compile()
    with_mask = model.config._attn_implementation == "flash_attention_2"
    optimizer = build_optimizer(model, args.max_lr, args.weight_decay)

    # Resume.
    first_step, num_bad, bad_in_a_row = 0, 0, 0
    tracker_id = None
    if checkpoint:
        state = load_trainer_state(checkpoint)
        try:
            sampler.load_state_dict(state["sampler"])
        except ValueError as error:
            raise InputError(f"--data_path {args.data_path}: {error}") from error
        optimizer.load_state_dict(state["optimizer"])
        first_step, tracker_id = state["step"], state["tracker_id"]
        num_bad, bad_in_a_row = state["num_bad"], state["bad_in_a_row"]
    ddp_model = (
        DistributedDataParallel(model, gradient_as_bucket_view=True)
        if processes.world_size > 1
        else model
    )
    if is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir)
        write_json(run_dir / "config.json", config)
        tracker = open_trackers(
            run_dir,
            config,
            args.neptune_project if args.track else None,
            args.run_name,
            tracker_id,
        )
        start = f"resuming from {checkpoint}" if checkpoint else "starting"
        tqdm.write(f"{start}: steps {first_step} to {num_steps}, {len(data):,} samples")

    def evaluate_and_report(step: int) -> None:
        if eval_data is None:
            return
        metrics = evaluate(
            model,
            eval_data,
            loss,
            args.micro_batch_size,
            args.max_length,
            BUCKET_TOKENS,
            processes,
            with_mask,
        )
        if is_main:
            tqdm.write(f"evaluation after step {step}\n{format_evaluation(metrics)}")
            write_json(run_dir / EVALUATION_FILE, {"step": step, **metrics})
            tracker.log(scalar_metrics(metrics), step)

    progress = tqdm(
        initial=first_step, total=num_steps, unit="step", disable=None if is_main else True
    )
    tokens, truncated, seconds = 0, 0, 0.0
    for step in range(first_step, num_steps):
        step_start = time.perf_counter()
        # Step: this process's slice of the global batch, cut into micro batches.
        indices = sampler.next_batch(args.total_batch_size)
        mine = indices.reshape(processes.world_size, -1)[processes.rank].tolist()
        batches = [
            collate_padded([data[i] for i in mine[j : j + args.micro_batch_size]], args.max_length)
            for j in range(0, len(mine), args.micro_batch_size)
        ]
        lr = learning_rate(step, num_steps, warmup_steps, args.max_lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        result = train_step(
            ddp_model, optimizer, loss, batches, processes, args.seed, step, with_mask
        )
        steps_done = step + 1
        num_bad += result.skipped
        bad_in_a_row = bad_in_a_row + 1 if result.skipped else 0
        if bad_in_a_row >= args.max_bad_steps:
            raise SystemExit(
                f"{PROGRAM}: error: loss or gradient not finite in {bad_in_a_row} steps in a row, "
                f"the last one step {steps_done}; the weights were not changed by them"
            )

        # Log.
        seconds += time.perf_counter() - step_start
        tokens += result.num_tokens
        truncated += result.num_truncated
        progress.update()
        if is_main and (steps_done % args.log_every == 0 or result.skipped):
            metrics = {
                "train/loss": result.loss,
                "train/grad_norm": result.grad_norm,
                "train/lr": lr,
                "train/epoch": steps_done * args.total_batch_size / len(data),
                "train/tokens_per_second": tokens / seconds,
                "train/truncated_samples": truncated,
                "train/skipped_steps": num_bad,
            }
            tracker.log(metrics, steps_done)
            note = " NOT FINITE, step skipped" if result.skipped else ""
            tqdm.write(
                f"step {steps_done}/{num_steps} loss {result.loss:.4f} lr {lr:.3g} "
                f"grad norm {result.grad_norm:.3g} {tokens / seconds:,.0f} tokens/s{note}"
            )
            tokens, truncated, seconds = 0, 0, 0.0

        # Save.
        is_last = steps_done == num_steps
        if is_main and (is_last or (args.save_every > 0 and steps_done % args.save_every == 0)):
            state = {
                "step": steps_done,
                "optimizer": optimizer.state_dict(),
                "sampler": sampler.state_dict(),
                "num_bad": num_bad,
                "bad_in_a_row": bad_in_a_row,
                "tracker_id": tracker.tracker_id,
            }
            save_checkpoint(run_dir, model, tokenizer, state, args.max_keep_ckpts)

        # Evaluate; the evaluation of the last step follows the loop.
        if args.eval_every > 0 and steps_done % args.eval_every == 0 and not is_last:
            evaluate_and_report(steps_done)
    progress.close()

    evaluate_and_report(num_steps)
    if is_main:
        tracker.close()
        with atomic_folder(final_dir) as folder:
            write_model(folder, model, tokenizer)
        print(f"the final model is in {final_dir}")
        push_final(args, final_dir)


def check_flags(args: TrainArgs, world_size: int) -> None:
    """Raises InputError, naming the flags, if their values don't fit together."""
    for name in (
        "data_num_response",
        "num_epochs",
        "total_batch_size",
        "micro_batch_size",
        "small_group_size",
        "max_length",
        "log_every",
        "max_keep_ckpts",
        "max_bad_steps",
    ):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} must be at least 1")
    for name in ("num_steps", "eval_every", "save_every"):
        if getattr(args, name) < 1 and getattr(args, name) != -1:
            raise InputError(f"--{name} {getattr(args, name)} must be positive, or -1")
    if not args.max_lr > 0:
        raise InputError(f"--max_lr {args.max_lr} must be positive")
    for name in ("weight_decay", "seed"):
        if not getattr(args, name) >= 0:
            raise InputError(f"--{name} {getattr(args, name)} must not be negative")
    if not 0 <= args.attention_dropout < 1:
        raise InputError(f"--attention_dropout {args.attention_dropout} must be in [0, 1)")
    if args.eval_every > 0 and not args.eval_data_path:
        raise InputError(f"--eval_every {args.eval_every} needs --eval_data_path")
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
    if args.data_num_response % args.small_group_size:
        raise InputError(
            f"--data_num_response {args.data_num_response} is not a multiple of "
            f"--small_group_size {args.small_group_size}"
        )
    if args.loss == "bradley_terry" and args.small_group_size % 2:
        raise InputError(
            f"--loss bradley_terry pairs responses: --small_group_size {args.small_group_size} "
            "must be even"
        )


def refuse_other_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Raises InputError if the run was started with flags that would train other weights."""
    path = run_dir / "config.json"
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} of the run to continue can't be read: {error}") from error
    differing = differing_flags(saved, config, MAY_CHANGE_ON_RESUME | {"fingerprints"})
    differing += [
        f"--{flag} (the content of {config[flag]} has changed)"
        for flag, content in config["fingerprints"].items()
        # What is gone since is no matter: a checkpoint holds what it needs.
        if content and saved.get(flag) == config[flag] and saved["fingerprints"][flag] != content
    ]
    if differing:
        raise InputError(
            f"{run_dir} was started otherwise: {', '.join(differing)}; "
            "use another --run_name for another run"
        )


def load_data(
    flag: str, source: str, args: TrainArgs, vocab_size: int, processes: Processes
) -> GroupedRollouts:
    """Opens and checks a data set, naming the flag it came from if that fails."""
    try:
        return open_rollouts(source, args.data_num_response, vocab_size, processes)
    except DataError as error:
        raise InputError(f"{flag}: {error}") from error


def push_final(args: TrainArgs, final_dir: Path) -> None:
    """Pushes the final model if `--push_to_hub` asks for it."""
    if not args.push_to_hub:
        return
    try:
        address = push_folder(final_dir, args.hub_model_id or args.run_name)
    except Exception as error:  # whatever network and Hub come up with: the model is safe on disk
        raise SystemExit(
            f"{PROGRAM}: error: --push_to_hub failed: {error}; the model is in {final_dir}, "
            "run the same command again to push it"
        ) from error
    print(f"pushed to {address}")


if __name__ == "__main__":
    main()
