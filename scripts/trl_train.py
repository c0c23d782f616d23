r"""Train a policy with TRL: supervised (SFT, RFT), DPO, Step-DPO or KTO, on lines of token ids.

The baselines of the DVO paper, on what `data_prep.dvo export` writes (rft: sft; dpo and step_dpo:
dpo; kto: kto), with its settings, which are the defaults:

    python -m scripts.trl_train --method dpo --data_path outputs/dvo/dpo.jsonl \
        --model_path outputs/sft/final --run_name dpo

The supervised training before round one, on what `data_prep.dvo sft` writes:

    torchrun --standalone --nproc_per_node=8 -m scripts.trl_train --method sft \
        --data_path outputs/dvo/sft.jsonl --model_path meta-llama/Meta-Llama-3-8B-Instruct \
        --max_lr 2e-5 --num_epochs 1 --run_name sft

The token ids of the lines are trained on: no text is tokenized, no chat template is filled, and an
end token is only where the ids have one. Everything goes to <output_dir>/<run_name>: config.json,
metrics.jsonl with the steps and tokens so far, checkpoints, and in the end final/, a causal LM with
its tokenizer. Killed at any moment, or told to stop by SIGTERM, the same command goes on from the
newest checkpoint.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

# From here on this process ends with torchrun's agent, which the other imports outlast.
import run_lib.parent  # isort: skip  # noqa: F401

if __name__ == "__main__":
    from run_lib.commands import check_command_line
    from scripts.trl_args import PROGRAM, TrlArgs

    check_command_line(TrlArgs, PROGRAM, __doc__)

import contextlib
import copy
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from classifier_lib.training.checkpoint_folders import FINAL_FOLDER
from classifier_lib.training.checkpoints import checkpoint_errors, write_model
from classifier_lib.training.run_folder import CONFIG_FILE, locked, run_settings
from data_prep.sampling import Policy, load_policy
from dvo_lib.policy import load_causal_lm
from dvo_lib.token_lines import LineReader, TokenLines
from loggers import open_trackers
from run_lib.checksums import write_checksums
from run_lib.commands import (
    InputError,
    RunStopped,
    check_installed,
    naming,
    parse_command_line,
    run_command,
)
from run_lib.files import atomic_folder, read_json, write_files, write_json
from run_lib.hub import check_vocabulary, quiet_transformers, read_tokenizer
from run_lib.processes import Processes, StopRequest, distributed
from run_lib.settings import SettingsFile, free_flags
from scripts.trl_args import PROGRAM, TrlArgs, check_flags

CHECKPOINTS = "checkpoint-*"
"""Folders of checkpoints, as transformers names them."""

COMPLETE_FILE = "complete.json"
"""Written last into a checkpoint: without it the checkpoint is what a killed process left."""


class RunLog(TrainerCallback):
    """Logs a training, counts its tokens, marks complete checkpoints, and ends it when told to.

    Args:
        args: The flags.
        config: They as they are saved.
        trainer: The trainer.
        processes: The processes of the run.
        stop: Tells whether this one was told to stop.
        counts: Tokens of the run before this start, by name.
        num_lines: Lines of the data.
    """

    def __init__(
        self,
        args: TrlArgs,
        config: dict[str, Any],
        trainer: Any,
        processes: Processes,
        stop: StopRequest,
        counts: dict[str, int],
        num_lines: int,
    ):
        self._args = args
        self._trainer = trainer
        self._processes = processes
        self._stop = stop
        self._before = counts
        self._num_lines = num_lines
        is_main = processes.rank == 0
        self._tracker = open_trackers(args.folder, config) if is_main else None
        self._bar = tqdm(unit="step", disable=None if is_main else True)

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the progress bar."""
        self._bar.reset(state.max_steps)
        self._bar.update(state.global_step)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Has the trainer save and end, if a process was told to stop.

        What is saved is logged before, and so checked.
        """
        self._bar.update()
        if self._processes.start_any(self._stop.stop_requested)():
            control.should_save = control.should_training_stop = True
        control.should_log |= control.should_save or state.global_step >= state.max_steps

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes a line of metrics.

        Raises:
            RunStopped: If the loss or gradient is not finite.
        """
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:  # the summary at the end
            return
        counts = self.counts()
        step = state.global_step
        if self._tracker is not None:
            metrics = {name: value for name, value in logs.items() if name != "num_tokens"}
            metrics["lr"] = metrics.pop("learning_rate")
            metrics["epoch"] = step * self._args.total_batch_size / self._num_lines
            metrics |= {f"tokens/{name}": count for name, count in counts.items()}
            self._tracker.log({f"train/{name}": value for name, value in metrics.items()}, step)
            tqdm.write(
                f"step {step}/{state.max_steps} loss {logs['loss']:.4g} lr {metrics['lr']:.3g} "
                f"grad norm {logs['grad_norm']:.3g} tokens {counts['trained']:,}"
            )
        for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
            if not math.isfinite(logs[name]):
                raise RunStopped(f"the {what} of step {step} is {logs[name]}: training diverges")

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Marks a checkpoint as complete, with the tokens up to there."""
        counts = self.counts()  # waits for the files of all processes, too
        if self._processes.rank == 0:
            write_json(
                self._args.folder / f"checkpoint-{state.global_step}" / COMPLETE_FILE, counts
            )

    def close(self) -> None:
        """Closes the progress bar and the file of metrics."""
        self._bar.close()
        if self._tracker is not None:
            self._tracker.close()

    def counts(self) -> dict[str, int]:
        """Returns the tokens of the run so far, of all processes; every process calls this."""
        own = self._trainer.counts
        total = self._processes.sum(torch.tensor([own.trained, own.read])).tolist()
        return {name: self._before[name] + total[i] for i, name in enumerate(self._before)}


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint of a run, and removes incomplete ones."""
    complete = []
    for path in folder.glob(CHECKPOINTS):
        if (path / COMPLETE_FILE).is_file():
            complete.append(path)
        else:
            shutil.rmtree(path)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


@contextlib.contextmanager
def open_run(args: TrlArgs, processes: Processes) -> Iterator[tuple[bool, Path | None]]:
    """Finds out how far a run is, and keeps other starts of it out.

    Yields:
        Whether it is finished, and the checkpoint to go on from, None if there is none.

    Raises:
        InputError: On every process, if its folder is of other settings, or in use.
    """
    settings = run_settings(args)  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:

        def find() -> tuple[bool, Path | None]:
            stack.enter_context(locked(args.folder))
            is_finished = (args.folder / FINAL_FOLDER).exists()
            if is_finished or any(args.folder.glob(CHECKPOINTS)):
                SettingsFile(
                    args.folder / CONFIG_FILE,
                    args.folder,
                    "Use another --run_name for another run",
                    free_flags(args),
                ).check(settings)
            return is_finished, None if is_finished else newest_checkpoint(args.folder)

        yield processes.on_main(find)


def read_lines(args: TrlArgs, policy: Policy) -> TokenLines:
    """Reads what is trained on.

    Raises:
        InputError: Naming the line at fault.
    """
    if args.max_length is not None and args.max_length > policy.context:
        raise InputError(
            f"--max_length {args.max_length} is more than the context of {args.model_path}, "
            f"{policy.context} tokens"
        )
    max_length = args.max_length or policy.context
    reader = LineReader(args.method, policy.tokenizer, policy.vocab_size, max_length)
    with naming("--data_path", OSError):
        return reader.read(args.data_path)


def train(args: TrlArgs, processes: Processes, stop: StopRequest) -> None:
    """Trains and saves a policy; every process calls this.

    Raises:
        InputError: If a flag or an input can't be used.
        RunStopped: If training diverges, or the policy can't be written.
    """
    check_flags(args, processes.world_size)
    check_installed("TRL", PROGRAM, "pip install -r requirements-dvo.txt -c constraints.txt")
    with open_run(args, processes) as (is_finished, checkpoint):
        if not is_finished:
            run(args, checkpoint, processes, stop)
        elif processes.rank == 0:
            print(f"the run is finished: {args.folder / FINAL_FOLDER}")


def run(args: TrlArgs, checkpoint: Path | None, processes: Processes, stop: StopRequest) -> None:
    """Trains to the end, from a checkpoint if there is one; every process calls this."""
    # Imported here: it takes seconds, and few machines have it.
    from dvo_lib.trl_trainers import TrlSettings, build_trainer

    is_main = processes.rank == 0
    policy = load_policy(args.model_path, "--model_path")
    with naming(f"--model_path {args.model_path}:"):
        check_vocabulary(policy.tokenizer, policy.vocab_size)
    lines = read_lines(args, policy)
    num_steps = args.num_epochs * len(lines) // args.total_batch_size
    if not num_steps:
        raise InputError(
            f"--total_batch_size {args.total_batch_size} is more than --num_epochs "
            f"{args.num_epochs} x the {len(lines)} lines of --data_path {args.data_path}"
        )
    with naming("--model_path"):
        files = read_tokenizer(args.model_path)
        model = load_causal_lm(args.model_path, "sdpa", torch.float32)
    # TRL changes both.
    config, generation = copy.deepcopy(model.config), model.generation_config
    if generation is not None:
        files["generation_config.json"] = generation.to_json_string().encode()
    document = run_settings(args).document()  # type: ignore[arg-type]
    if is_main:
        write_json(args.folder / CONFIG_FILE, document)
    settings = TrlSettings(
        args.method,
        args.beta,
        args.max_lr,
        args.warmup_ratio,
        num_steps,
        args.total_batch_size,
        args.micro_batch_size,
        args.total_batch_size // (args.micro_batch_size * processes.world_size),
        args.seed,
    )
    trainer = build_trainer(
        settings,
        lines,
        model,
        policy.tokenizer,
        args.folder,
        logging_steps=args.log_every,
        save_steps=args.save_every,
        save_total_limit=2,
        gradient_checkpointing=args.gradient_checkpointing,
    )
    counts = (read_json(checkpoint / COMPLETE_FILE) if checkpoint else None) or {
        "trained": 0,
        "read": 0,
    }
    log = RunLog(args, document, trainer, processes, stop, counts, len(lines))
    trainer.add_callback(log)
    if is_main:
        start = f"resuming from {checkpoint}" if checkpoint else "starting"
        tqdm.write(f"{start}: {len(lines):,} lines, {lines.num_left_out:,} longer ones left out")
    with contextlib.closing(log):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < trainer.state.max_steps:
        if is_main:
            print(
                f"told to stop: saved step {trainer.state.global_step}; the same command goes on "
                "from there"
            )
        return
    trained = log.counts()["trained"]
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if is_main:
        final = args.folder / FINAL_FOLDER
        with checkpoint_errors(f"saving {final} failed"), atomic_folder(final) as temporary:
            write_model(temporary, config, weights, type(model))
            write_files(temporary, files)
            write_checksums(temporary)
        steps = trainer.state.global_step
        print(f"the final policy is in {final}: {steps:,} steps, {trained:,} trained tokens")


def parse_args(argv: Sequence[str] | None = None) -> TrlArgs:
    """Returns the flags of a command line, by default this process's."""
    return parse_command_line(TrlArgs, PROGRAM, __doc__, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_args(argv)
    quiet_transformers()

    def command() -> None:
        with distributed() as processes, StopRequest() as stop:
            train(args, processes, stop)

    run_command(PROGRAM, command)


if __name__ == "__main__":
    main()
