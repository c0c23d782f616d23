r"""Train a policy with Direct Value Optimization (DVO, arXiv 2502.13723) on paths of search trees.

On a CPU, with a small policy and paths in the columns of `dvo_lib.columns.PATH_SCHEMA`:

    python train_dvo.py --data_path data/toy_paths --model_path outputs/toy_policy \
        --num_epochs 3 --total_batch_size 16 --max_lr 1e-4 --run_name toy_dvo

On the GPUs of one machine:

    torchrun --standalone --nproc_per_node=8 train_dvo.py --data_path data/paths \
        --model_path outputs/sft/final --parallel fsdp --tokens_per_micro_batch 32768 \
        --run_name dvo_round_1

Everything goes to <output_dir>/<run_name>: config.json, metrics.jsonl, checkpoints step_N/, in the
end final/, a causal LM with its tokenizer, and evaluation.json. Killed at any moment, or told to
stop by SIGTERM, the same command goes on from the newest checkpoint, on as many processes as there
are then.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

# From here on this process ends with torchrun's agent, which the other imports outlast.
import run_lib.parent  # isort: skip  # noqa: F401

if __name__ == "__main__":
    from dvo_lib.args import PROGRAM, DvoArgs
    from run_lib.commands import check_command_line

    check_command_line(DvoArgs, PROGRAM, __doc__)

import contextlib
import time
from collections.abc import Sequence

from tqdm import tqdm

from classifier_lib.args import EVALUATION_FILE
from classifier_lib.training.checkpoints import (
    Checkpointer,
    load_checkpoint,
    read_state,
    write_final,
)
from classifier_lib.training.parallel import full_weights
from classifier_lib.training.progress import Progress
from classifier_lib.training.run_folder import RunFolder, open_run
from classifier_lib.training.step import learning_rate, train_step
from classifier_lib.training.uploads import open_checkpointer, push_final
from data_prep.dvo.reference import check_reference
from dvo_lib.args import PROGRAM, DvoArgs, check_flags
from dvo_lib.card import policy_card
from dvo_lib.learner import evaluate
from dvo_lib.policy import load_policy_config
from dvo_lib.setup import build_policy, load_data
from loggers import Tracker, TrackerState, open_trackers
from run_lib.commands import naming, parse_command_line, run_command
from run_lib.files import write_files, write_json
from run_lib.hub import quiet_transformers, read_tokenizer
from run_lib.processes import Processes, StopRequest, ToldToStop, distributed


def parse_args(argv: Sequence[str] | None = None) -> DvoArgs:
    """Returns the flags of a command line, by default this process's."""
    return parse_command_line(DvoArgs, PROGRAM, __doc__, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_args(argv)
    quiet_transformers()

    def command() -> None:
        with distributed() as processes, StopRequest() as stop:
            train(args, processes, stop)

    # Not at once: a checkpoint that is being written is completed.
    run_command(PROGRAM, command)


def train(args: DvoArgs, processes: Processes, stop: StopRequest) -> None:
    """Trains, evaluates and saves a policy; every process calls this.

    Raises:
        InputError: If a flag or an input can't be used.
        RunStopped: If training diverges, or checkpoints can't be written or the policy can't be
            pushed.
    """
    check_flags(args, processes.world_size)
    with open_run(args, processes) as folder:
        if not folder.is_finished:
            with open_checkpointer(args, folder, processes) as checkpointer:
                run(args, folder, checkpointer, processes, stop)
        elif processes.rank == 0:
            print(f"the run is finished: {folder.final}")
        push_final(args, folder, processes)


def run(
    args: DvoArgs,
    folder: RunFolder,
    checkpointer: Checkpointer,
    processes: Processes,
    stop: StopRequest,
) -> None:
    """Trains to the end, from a checkpoint if there is one; every process calls this."""
    is_main = processes.rank == 0

    # Load the data and plan the steps; the weights come last, when all else is known to be right.
    state = read_state(folder.checkpoint) if folder.checkpoint else None
    source = str(folder.checkpoint or args.model_path)
    with naming("--model_path"):
        vocab_size = load_policy_config(source).vocab_size
        files = read_tokenizer(source) if is_main else {}
    check_reference(args.data_path, args.model_path, folder.config["fingerprints"]["model_path"])
    data = load_data(args, vocab_size, state)
    num_trees = len(data.trees)

    # Load the policy, and with a checkpoint also the state of its optimizer.
    training = build_policy(args, source, processes)
    learner, optimizer = training.learner, training.optimizer
    if training.generation:
        files["generation_config.json"] = training.generation.to_json_string().encode()
    progress = Progress(data.sampler.state_dict())
    if folder.checkpoint and state:
        load_checkpoint(folder.checkpoint, learner.model, optimizer)
        progress = Progress.resume(state)
    tracker_state = state["trackers"] if state else None
    processes.on_main(folder.prepare)
    tracker = start_tracking(args, folder, tracker_state) if is_main else None
    if is_main:
        start = f"resuming from {folder.checkpoint}" if folder.checkpoint else "starting"
        paths = f"{num_trees:,} trees, {data.trees.num_paths:,} paths"
        tqdm.write(f"{start}: steps {progress.step} to {data.num_steps}, {paths}")

    def save() -> None:
        checkpointer.wait_or_warn()
        progress.saved_step = progress.step
        trackers = tracker.state(progress.step) if tracker else None
        state = {**progress.state(), "trackers": trackers, "resume_from": args.resume_from}
        checkpointer.save(learner.model, optimizer, state, lambda at: write_files(at, files))

    def evaluate_and_report() -> dict[str, float] | None:
        if data.held_out is None:
            return None
        metrics = evaluate(learner, data.held_out, training.plan, stop.stop_requested)
        if tracker:
            tqdm.write(f"evaluation after step {progress.step} {format_metrics(metrics)}")
            write_json(folder.path / EVALUATION_FILE, {"step": progress.step, **metrics})
            tracker.log({f"eval/{name}": value for name, value in metrics.items()}, progress.step)
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
        # Step: this process's micro batches of the global batch of trees.
        step_start = time.perf_counter()
        indices = data.sampler.next_batch(args.total_batch_size).tolist()
        parts = training.plan.micro_batches(data.trees, indices, processes.world_size)
        batches = [training.plan.load(data.trees, part) for part in parts[processes.rank]]
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
        lengths = [data.trees.length(i) for i in indices]
        training.throughput.add(time.perf_counter() - step_start, result.counts, lengths)
        bar.update()
        if is_last or progress.step % args.log_every == 0 or result.skipped:
            metrics = learner.metrics.report() | {"loss": result.loss}
            if tracker:
                metrics |= {
                    "grad_norm": result.grad_norm,
                    "lr": lr,
                    "epoch": progress.step * args.total_batch_size / num_trees,
                    **training.throughput.report(),
                    "skipped_steps": progress.num_bad,
                }
                named = {f"train/{name}": value for name, value in metrics.items()}
                tracker.log(named, progress.step)
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

    # Evaluate, and write the final policy.
    checkpointer.wait()
    try:
        evaluation = evaluate_and_report()
    except ToldToStop:
        return leave()
    weights = full_weights(learner.model, processes)
    if tracker and weights is not None:
        tracker.close()
        card = policy_card(
            folder.config, data.num_steps, num_trees, data.trees.num_paths, evaluation
        )
        files["README.md"] = card.encode()
        write_final(folder.final, learner.model, weights, files)
        print(f"the final policy is in {folder.final}")


def start_tracking(args: DvoArgs, folder: RunFolder, resume: TrackerState | None) -> Tracker:
    """Opens the trackers that the flags of the run ask for."""
    return open_trackers(
        folder.path,
        folder.config,
        list(dict.fromkeys(args.trackers)),
        run_name=args.run_name,
        neptune_project=args.neptune_project,
        resume=resume,
        tags=args.logger_tags,
    )


SHOWN = {
    "loss": "loss {:.4g}",
    "lr": "lr {:.3g}",
    "grad_norm": "grad norm {:.3g}",
    "implicit_reward/correct": "implicit reward {:+.3f} correct",
    "implicit_reward/incorrect": "{:+.3f} incorrect",
    "implicit_reward/accuracy": "accuracy {:.1%}",
    "kl": "KL {:.3g}",
    "tokens_per_second/all": "tokens/s {:,.0f}",
    "tokens_per_second/valid": "({:,.0f} of the paths)",
    "mfu": "MFU {:.1%}",
}
"""Metrics in the terminal, in their order."""


def format_metrics(metrics: dict[str, float]) -> str:
    """Returns metrics for a line in the terminal."""
    return " ".join(text.format(metrics[name]) for name, text in SHOWN.items() if name in metrics)


if __name__ == "__main__":
    main()
