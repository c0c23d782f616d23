r"""Train a token-level value model on grouped roll-outs (Value-Guided Search, arXiv 2505.17373).

On a CPU, with a small Qwen2 policy and data in the columns of OpenR1-VM:

    python train_classifier.py --data_path data/toy_vm --data_num_response 8 \
        --model_path outputs/toy_policy --num_steps 500 --total_batch_size 64 \
        --micro_batch_size 16 --max_lr 1e-3 --max_length 256 --run_name toy_value

On the GPUs of one machine (several machines: scripts/train_multinode.sh, scripts/train_slurm.sh):

    torchrun --standalone --nproc_per_node=4 train_classifier.py --data_path VGS-AI/OpenR1-VM \
        --data_num_response 56 --model_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --packing shared_prefix --small_group_size 4 --tokens_per_micro_batch 65536 \
        --num_steps 12170 --total_batch_size 64 --save_every 486 --run_name single_node_run

Everything goes to <output_dir>/<run_name>: config.json, metrics.jsonl, checkpoints step_N/, in the
end final/ and evaluation.json. Killed at any moment, or told to stop by SIGTERM, the same command
goes on from the newest checkpoint, on as many processes as there are then.
"""

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import tyro
from safetensors import SafetensorError
from tqdm import tqdm

from classifier_lib.attention import FLEX_BLOCK, choose_attention, leave_out_flex_dropout
from classifier_lib.batches import BatchPlan
from classifier_lib.data import DataError, GroupedRollouts, GroupSampler, format_bad_rows
from classifier_lib.evaluation import (
    EVALUATION_FILE,
    evaluate,
    format_evaluation,
    scalar_metrics,
)
from classifier_lib.flops import ModelSize
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import initialize_from_policy
from classifier_lib.training.args import TrainArgs, check_flags, refuse_other_config
from classifier_lib.training.card import model_card
from classifier_lib.training.checkpoints import (
    Checkpointer,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    remove_leftovers,
    write_model,
)
from classifier_lib.training.parallel import full_weights, parallelize, unwrap
from classifier_lib.training.step import (
    build_optimizer,
    default_warmup_steps,
    learning_rate,
    train_step,
)
from classifier_lib.training.throughput import Throughput
from loggers import open_trackers
from run_lib.commands import InputError, exit_with_error
from run_lib.files import atomic_folder, lock_file, write_files, write_json
from run_lib.fingerprints import DATA_FILES, MODEL_FILES, fingerprint
from run_lib.hub import push_folder, read_tokenizer
from run_lib.processes import Processes, StopRequest, distributed

PROGRAM = "train_classifier.py"
FINAL_FOLDER = "final"
LOCK_FILE = ".run.lock"
BUCKET_TOKENS = 1024
"""Width of the position buckets of the evaluation, in tokens."""


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
        with distributed() as processes, StopRequest() as stop:
            train(args, processes, stop)
    except (InputError, CheckpointError) as error:
        exit_with_error(PROGRAM, str(error))


def train(args: TrainArgs, processes: Processes, stop: StopRequest) -> None:
    """Trains, evaluates and saves a value model; every process calls this.

    Raises:
        InputError: If a flag or an input can't be used.
    """
    check_flags(args, processes.world_size)
    is_main = processes.rank == 0
    run_dir = args.output_dir / args.run_name
    final_dir = run_dir / FINAL_FOLDER
    config = make_config(args)
    with locked(run_dir) if is_main else contextlib.nullcontext():
        # Rank 0 looks for all: a shared file system may show others an older state.
        found = (newest_checkpoint(run_dir), final_dir.exists())
        checkpoint, is_finished = processes.from_main(found)
        if not all(processes.all_gather_objects((run_dir / LOCK_FILE).exists())):
            raise InputError(
                f"--output_dir {args.output_dir} is not shared by the machines: some don't see "
                f"{run_dir / LOCK_FILE}"
            )
        if checkpoint or is_finished:
            refuse_other_config(run_dir, config)
        if not is_finished:
            with contextlib.closing(
                Checkpointer(run_dir, processes, args.max_keep_ckpts)
            ) as checkpointer:
                is_finished = run(args, config, run_dir, checkpoint, checkpointer, processes, stop)
        elif is_main:
            print(f"the run is finished: {final_dir}")
        if is_main and is_finished and args.push_to_hub:
            push_final(args, final_dir)


def run(
    args: TrainArgs,
    config: dict[str, Any],
    run_dir: Path,
    checkpoint: Path | None,
    checkpointer: Checkpointer,
    processes: Processes,
    stop: StopRequest,
) -> bool:
    """Trains to the end, from a checkpoint if there is one; every process calls this.

    Returns:
        Whether the run is finished: not if it was told to stop.
    """
    is_main, device = processes.rank == 0, processes.device

    # Load the data and plan the run; the model comes last, when all the rest is known to be right.
    loss = LOSSES[args.loss]
    model_source = checkpoint or args.model_path
    state = read_state(checkpoint) if checkpoint else None
    try:
        model_config = transformers.AutoConfig.from_pretrained(model_source)
        vocab_size = model_config.vocab_size
        tokenizer = read_tokenizer(model_source) if is_main else {}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--model_path {model_source}: {error}") from error
    if getattr(model_config, "use_sliding_window", False) and args.packing != "padded":
        raise InputError(
            f"--packing {args.packing}: {model_source} has sliding-window attention, which packed "
            "rows don't have; use --packing padded"
        )
    if state:  # the run has checked its data
        data = load_data("--data_path", args.data_path, args, None, state["left_out"], processes)
    else:
        data = load_data("--data_path", args.data_path, args, vocab_size, (), processes)
    eval_data = None
    if args.eval_data_path:
        eval_data = load_data(
            "--eval_data_path", args.eval_data_path, args, vocab_size, (), processes
        )
    sampler = GroupSampler(data.num_rows, data.num_responses, args.small_group_size, args.seed)
    num_steps, warmup_steps = plan_steps(args, len(data))
    try:
        implementation = choose_attention(args.attention_impl, args.packing, device)
    except ValueError as error:
        raise InputError(f"--attention_impl: {error}") from error
    plan = BatchPlan(
        args.packing,
        args.max_length,
        args.micro_batch_size,
        args.tokens_per_micro_batch if args.tokens_per_micro_batch > 0 else None,
        args.small_group_size,
        loss.pairs,
        FLEX_BLOCK if implementation == "flex_attention" else None,
    )

    # Load the model.
    torch.manual_seed(args.seed)
    try:
        model = initialize_from_policy(
            model_source,
            loss.num_labels,
            args.attention_dropout,
            implementation,
            getattr(torch, args.param_dtype),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--model_path {model_source}: {error}") from error
    leave_out_flex_dropout(model)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` untyped
    model.train()
    throughput = Throughput(ModelSize.of(model), processes.world_size, device)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if args.compile:
        for layer in model.model.layers:  # one compilation serves all layers
            layer.compile()
    try:
        parallel_model = parallelize(model, args.parallel, processes)
    except ValueError as error:
        raise InputError(f"--parallel {args.parallel}: {error}") from error
    optimizer = build_optimizer(parallel_model, args.max_lr, args.weight_decay)

    # Resume.
    first_step, num_bad, bad_in_a_row, tracker_state = 0, 0, 0, None
    if checkpoint and state:
        load_checkpoint(checkpoint, parallel_model, optimizer)
        try:
            sampler.load_state_dict(state["sampler"])
        except ValueError as error:
            raise InputError(f"--data_path {args.data_path}: {error}") from error
        first_step, tracker_state = state["step"], state["trackers"]
        num_bad, bad_in_a_row = state["num_bad"], state["bad_in_a_row"]
    tracker = None
    if is_main:
        remove_leftovers(run_dir)
        write_json(run_dir / "config.json", config)
        trackers = dict.fromkeys([*args.trackers, *(["neptune"] if args.track else [])])
        tracker = open_trackers(
            run_dir,
            config,
            list(trackers),
            run_name=args.run_name,
            neptune_project=args.neptune_project,
            resume=tracker_state,
        )
        start = f"resuming from {checkpoint}" if checkpoint else "starting"
        tqdm.write(f"{start}: steps {first_step} to {num_steps}, {len(data):,} samples")

    def evaluate_and_report(step: int) -> dict[str, Any] | None:
        if eval_data is None:
            return None
        metrics = evaluate(
            parallel_model, eval_data, loss, plan, implementation, BUCKET_TOKENS, processes
        )
        if tracker:
            tqdm.write(f"evaluation after step {step}\n{format_evaluation(metrics)}")
            write_json(run_dir / EVALUATION_FILE, {"step": step, **metrics})
            tracker.log(scalar_metrics(metrics), step)
        return metrics

    truncated, steps_done, sampler_state = 0, first_step, sampler.state_dict()
    saved_step, save_has_failed = first_step, False

    def save(step: int) -> None:
        nonlocal saved_step, save_has_failed
        try:
            checkpointer.wait()
            save_has_failed = False
        except CheckpointError as error:  # once may be an accident
            if save_has_failed:
                raise
            save_has_failed = True
            if is_main:
                tqdm.write(f"warning: {error}; training goes on")
        saved_step = step
        state = {
            "step": step,
            "sampler": sampler_state,
            "num_bad": num_bad,
            "bad_in_a_row": bad_in_a_row,
            "left_out": data.left_out,
            "trackers": tracker.state(step) if tracker else None,
        }
        checkpointer.save(
            parallel_model, optimizer, state, lambda folder: write_files(folder, tokenizer)
        )

    progress = tqdm(
        initial=first_step, total=num_steps, unit="step", disable=None if is_main else True
    )
    for step in range(first_step, num_steps):
        # Step: this process's micro batches of the global batch.
        step_start = time.perf_counter()
        indices = sampler.next_batch(args.total_batch_size).tolist()
        mine = plan.micro_batches(data, indices, processes.world_size)[processes.rank]
        lr = learning_rate(step, num_steps, warmup_steps, args.max_lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        result = train_step(
            parallel_model,
            optimizer,
            loss,
            [plan.load(data, samples) for samples in mine],
            implementation,
            processes,
            args.seed,
            step,
            stop.stop_requested(),
        )
        if result is None:
            steps_done = step
            break
        steps_done = step + 1
        sampler_state = sampler.state_dict()
        num_bad += result.skipped
        bad_in_a_row = bad_in_a_row + 1 if result.skipped else 0
        if bad_in_a_row >= args.max_bad_steps:
            raise SystemExit(
                f"{PROGRAM}: error: loss or gradient not finite in {bad_in_a_row} steps in a row, "
                f"the last one step {steps_done}; the weights were not changed by them"
            )

        # Log.
        throughput.add(time.perf_counter() - step_start, result.counts)
        truncated += result.num_truncated
        progress.update()
        if tracker and (steps_done % args.log_every == 0 or result.skipped):
            speed = throughput.report()
            metrics = {
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": lr,
                "epoch": steps_done * args.total_batch_size / len(data),
                **speed,
                "truncated_samples": truncated,
                "skipped_steps": num_bad,
            }
            tracker.log({f"train/{name}": value for name, value in metrics.items()}, steps_done)
            mfu = f" MFU {speed['mfu']:.1%}" if "mfu" in speed else ""
            note = " NOT FINITE, step skipped" if result.skipped else ""
            tqdm.write(
                f"step {steps_done}/{num_steps} loss {result.loss:.4f} lr {lr:.3g} "
                f"grad norm {result.grad_norm:.3g} tokens/s {speed['tokens_per_second/all']:,.0f} "
                f"({speed['tokens_per_second/valid']:,.0f} valid, "
                f"{speed['tokens_per_second/loss']:,.0f} loss){mfu}{note}"
            )
            truncated = 0

        # Save.
        is_last = steps_done == num_steps
        if is_last or (args.save_every > 0 and steps_done % args.save_every == 0):
            save(steps_done)

        # Evaluate; the evaluation of the last step follows the loop.
        if args.eval_every > 0 and steps_done % args.eval_every == 0 and not is_last:
            evaluate_and_report(steps_done)
    progress.close()
    is_stopped = steps_done < num_steps
    if is_stopped and steps_done > saved_step:
        save(steps_done)
    checkpointer.wait()
    if is_stopped:
        if tracker:
            tracker.close()
            done = f"saved step {saved_step}" if saved_step else "before the first step"
            print(f"told to stop: {done}; the same command goes on from there")
        return False

    evaluation = evaluate_and_report(num_steps)
    weights = full_weights(parallel_model, processes)
    if tracker and weights is not None:
        tracker.close()
        repo_id = args.hub_model_id or args.run_name
        final_dir = run_dir / FINAL_FOLDER
        card = model_card(config, num_steps, len(data), evaluation, repo_id)
        with atomic_folder(final_dir) as folder:
            write_model(folder, unwrap(parallel_model).config, weights)
            write_files(folder, {**tokenizer, "README.md": card.encode()})
        print(f"the final model is in {final_dir}")
    return True


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Makes the folder of a run and keeps other starts of the run out of it.

    A folder that has stayed empty is removed in the end.

    Raises:
        InputError: If another process is in it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(run_dir / LOCK_FILE)
    except BlockingIOError:
        raise InputError(f"another process trains in {run_dir}") from None
    with lock:
        try:
            yield
        finally:
            if [path.name for path in run_dir.iterdir()] == [LOCK_FILE]:
                shutil.rmtree(run_dir)


def make_config(args: TrainArgs) -> dict[str, Any]:
    """Returns the flags as they are saved, with digests of what the paths hold."""
    config = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(args).items()
    }
    # So that retrained policies and new roll-outs are other runs.
    config["fingerprints"] = {
        "model_path": fingerprint(args.model_path, MODEL_FILES),
        "data_path": fingerprint(args.data_path, DATA_FILES),
    }
    return config


def plan_steps(args: TrainArgs, num_samples: int) -> tuple[int, int]:
    """Returns the optimizer steps of the run, and how many of them are the warm-up."""
    num_steps = args.num_steps
    if num_steps == -1:
        num_steps = args.num_epochs * num_samples // args.total_batch_size
        if not num_steps:
            raise InputError(
                f"--num_epochs {args.num_epochs} of {num_samples} samples are less than one "
                f"--total_batch_size {args.total_batch_size}"
            )
    warmup_steps = args.warmup_steps
    if warmup_steps == -1:
        warmup_steps = default_warmup_steps(num_steps)
    if not 0 <= warmup_steps < num_steps:
        raise InputError(
            f"--warmup_steps {warmup_steps} must be at least 0 and less than the {num_steps} steps"
        )
    return num_steps, warmup_steps


def load_data(
    flag: str,
    source: str,
    args: TrainArgs,
    vocab_size: int | None,
    left_out: Sequence[int],
    processes: Processes,
) -> GroupedRollouts:
    """Opens and checks a data set, naming the flag it came from if that fails."""
    try:
        data = GroupedRollouts(
            source,
            args.data_num_response,
            vocab_size,
            skip_bad_rows=args.skip_bad_rows,
            left_out=left_out,
            soft_targets=LOSSES[args.loss].needs_soft,
            processes=processes,
        )
    except DataError as error:
        raise InputError(f"{flag}: {error}") from error
    if processes.rank == 0 and data.bad_rows:
        tqdm.write(f"{flag}: {format_bad_rows(data.bad_rows)}")
    return data


def push_final(args: TrainArgs, final_dir: Path) -> None:
    """Pushes the final model to the Hub."""
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
