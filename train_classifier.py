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

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

# From here on this process ends with torchrun's agent, which the other imports outlast.
import run_lib.parent  # isort: skip  # noqa: F401

if __name__ == "__main__":
    from classifier_lib.training.args import NOT_SUPPORTED, PROGRAM, TrainArgs
    from run_lib.commands import check_command_line

    check_command_line(TrainArgs, PROGRAM, __doc__, NOT_SUPPORTED)

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import datasets
from tqdm import tqdm

from classifier_lib.args import EVALUATION_FILE
from classifier_lib.training.args import (
    NOT_SUPPORTED,
    PROGRAM,
    TrainArgs,
    check_flags,
    resolve_loss,
)
from classifier_lib.training.card import model_card
from classifier_lib.training.checkpoints import (
    Checkpointer,
    load_checkpoint,
    read_state,
    write_final,
)
from classifier_lib.training.parallel import full_weights
from classifier_lib.training.progress import Progress
from classifier_lib.training.run_folder import RunFolder, open_run, parse_settings
from classifier_lib.training.setup import build_model, check_model, load_data
from classifier_lib.training.step import learning_rate, train_step
from classifier_lib.training.uploads import open_checkpointer, push_final, repository
from loggers import Tracker, TrackerState, open_trackers
from run_lib.commands import naming, parse_command_line, run_command
from run_lib.files import write_files, write_json
from run_lib.hub import quiet_transformers, read_tokenizer
from run_lib.processes import Processes, StopRequest, ToldToStop, distributed

BUCKET_TOKENS = 1024
"""Width of the position buckets of the evaluation, in tokens."""


def parse_args(argv: Sequence[str] | None = None) -> TrainArgs:
    """Returns the flags of a command line, by default this process's."""
    return parse_command_line(TrainArgs, PROGRAM, __doc__, argv, NOT_SUPPORTED)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_args(argv)
    quiet_transformers()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()

    def command() -> None:
        with distributed() as processes, StopRequest() as stop:
            train(args, processes, stop)

    # Not at once: a checkpoint that is being written is completed.
    run_command(PROGRAM, command)


def train(args: TrainArgs, processes: Processes, stop: StopRequest) -> None:
    """Trains, evaluates and saves a value model; every process calls this.

    Raises:
        InputError: If a flag or an input can't be used.
        RunStopped: If training diverges, checkpoints can't be written or the model can't be pushed.
    """
    args = resolve_loss(args)
    check_flags(args, processes.world_size)
    with open_run(args, processes, parse_settings) as folder:
        if not folder.is_finished:
            with open_checkpointer(args, folder, processes) as checkpointer:
                run(args, folder, checkpointer, processes, stop)
        elif processes.rank == 0:
            print(f"the run is finished: {folder.final}")
        push_final(args, folder, processes)


def run(
    args: TrainArgs,
    folder: RunFolder,
    checkpointer: Checkpointer,
    processes: Processes,
    stop: StopRequest,
) -> None:
    """Trains to the end, from a checkpoint if there is one; every process calls this."""
    is_main = processes.rank == 0
    if args.eval_data_path is not None:
        # torchmetrics takes seconds, which other runs are spared.
        from classifier_lib.evaluation import evaluate, format_evaluation, scalar_metrics

    # Load the data and plan the steps; the weights come last, when all else is known to be right.
    state = read_state(folder.checkpoint) if folder.checkpoint else None
    source = str(folder.checkpoint or args.model_path)
    vocab_size = check_model(args.packing, source)
    with naming("--model_path"):
        tokenizer = read_tokenizer(source) if is_main else {}
    data = load_data(args, vocab_size, state, processes)
    num_samples = len(data.rollouts)

    # Load the model, and with a checkpoint also the state of its optimizer.
    training = build_model(args, source, processes)
    learner, optimizer = training.learner, training.optimizer
    progress = Progress(data.sampler.state_dict())
    if folder.checkpoint and state:
        load_checkpoint(folder.checkpoint, learner.model, optimizer)
        progress = Progress.resume(state)
    tracker_state = state["trackers"] if state else None
    processes.on_main(folder.prepare)
    tracker = start_tracking(args, folder, tracker_state) if is_main else None
    if is_main:
        start = f"resuming from {folder.checkpoint}" if folder.checkpoint else "starting"
        tqdm.write(f"{start}: steps {progress.step} to {data.num_steps}, {num_samples:,} samples")

    def save() -> None:
        checkpointer.wait_or_warn()
        progress.saved_step = progress.step
        trackers = tracker.state(progress.step) if tracker else None
        state = {**progress.state(), "left_out": data.rollouts.left_out, "trackers": trackers}
        state["resume_from"] = args.resume_from
        checkpointer.save(learner.model, optimizer, state, lambda at: write_files(at, tokenizer))

    def evaluate_and_report() -> dict[str, Any] | None:
        if data.held_out is None:
            return None
        metrics = evaluate(
            learner, data.held_out, training.plan, BUCKET_TOKENS, stop.stop_requested
        )
        if tracker:
            tqdm.write(f"evaluation after step {progress.step}\n{format_evaluation(metrics)}")
            write_json(folder.path / EVALUATION_FILE, {"step": progress.step, **metrics})
            tracker.log(scalar_metrics(metrics), progress.step)
        return metrics

    def leave() -> None:
        # Told to stop: save the last step.
        if progress.step > progress.saved_step:
            save()
        checkpointer.wait()
        if tracker:
            tracker.close()
            done = f"saved step {progress.step}" if progress.step else "before the first step"
            print(f"told to stop: {done}; the same command goes on from there")

    is_off = None if is_main else True  # None: off unless standard error is a terminal
    bar = tqdm(initial=progress.step, total=data.num_steps, unit="step", disable=is_off)
    while progress.step < data.num_steps:
        # Step: this process's micro batches of the global batch.
        step_start = time.perf_counter()
        indices = data.sampler.next_batch(args.total_batch_size).tolist()
        parts = training.plan.micro_batches(data.rollouts, indices, processes.world_size)
        batches = [training.plan.load(data.rollouts, part) for part in parts[processes.rank]]
        lr = args.max_lr
        if not args.disable_lr_schedule:
            lr = learning_rate(progress.step, data.num_steps, data.warmup_steps, args.max_lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        result = train_step(
            learner,
            optimizer,
            batches,
            args.seed,
            progress.step,
            stop.stop_requested,
            args.grad_norm_clip,
        )
        if result is None:
            break
        progress.add(result, data.sampler.state_dict(), args.max_bad_steps)
        is_last = progress.step == data.num_steps

        # Log.
        lengths = [min(data.rollouts.length(i), args.max_length) for i in indices]
        training.throughput.add(time.perf_counter() - step_start, result.counts, lengths)
        bar.update()
        if tracker and (is_last or progress.step % args.log_every == 0 or result.skipped):
            metrics = {
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": lr,
                "epoch": progress.step * args.total_batch_size / num_samples,
                **training.throughput.report(),
                "truncated_samples": progress.num_truncated,
                "samples_without_loss": progress.num_without_loss,
                "skipped_steps": progress.num_bad,
            }
            progress.num_truncated = progress.num_without_loss = 0
            tracker.log({f"train/{name}": value for name, value in metrics.items()}, progress.step)
            note = " NOT FINITE, step skipped" if result.skipped else ""
            tqdm.write(f"step {progress.step}/{data.num_steps} {format_metrics(metrics)}{note}")

        # Save.
        if is_last or (args.save_every > 0 and progress.step % args.save_every == 0):
            save()

        # Evaluate; the evaluation of the last step follows the loop.
        if args.eval_every > 0 and progress.step % args.eval_every == 0 and not is_last:
            with contextlib.suppress(ToldToStop):  # the next step is not taken
                evaluate_and_report()
    bar.close()
    if progress.step < data.num_steps:
        return leave()

    # Evaluate, and write the final model.
    checkpointer.wait()
    try:
        evaluation = evaluate_and_report()
    except ToldToStop:
        return leave()
    weights = full_weights(learner.model, processes)
    if tracker and weights is not None:
        tracker.close()
        card = model_card(folder.config, data.num_steps, num_samples, evaluation, repository(args))
        files = {**tokenizer, "README.md": card.encode()}
        write_final(folder.final, learner.model, weights, files)
        seen, lost = progress.step * args.total_batch_size, progress.all_without_loss
        print(f"{lost:,} of {seen:,} samples lost all roll-out tokens to --max_length")
        print(f"the final model is in {folder.final}")


def start_tracking(args: TrainArgs, folder: RunFolder, resume: TrackerState | None) -> Tracker:
    """Opens the trackers that the flags of the run ask for."""
    names = dict.fromkeys([*args.trackers, *(["neptune"] if args.track else [])])
    return open_trackers(
        folder.path,
        folder.config,
        list(names),
        run_name=args.run_name,
        neptune_project=args.neptune_project,
        resume=resume,
        tags=args.logger_tags,
    )


def format_metrics(metrics: dict[str, float]) -> str:
    """Returns the metrics of a step for a line in the terminal."""
    tokens = {kind: metrics[f"tokens_per_second/{kind}"] for kind in ("all", "valid", "loss")}
    mfu = f" MFU {metrics['mfu']:.1%}" if "mfu" in metrics else ""
    return (
        f"loss {metrics['loss']:.4f} lr {metrics['lr']:.3g} grad norm {metrics['grad_norm']:.3g} "
        f"tokens/s {tokens['all']:,.0f} ({tokens['valid']:,.0f} valid, {tokens['loss']:,.0f} loss)"
        f"{mfu}"
    )


if __name__ == "__main__":
    main()
