"""A plan: commands in their order, what they will cost, and how they are run."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from run_lib.commands import InputError, positive
from run_lib.settings import free
from run_lib.text import some_of
from scripts.reproduce.cost import hours

WIDTH = 100
"""Columns of a printed command."""


@dataclass(frozen=True)
class PlanArgs:
    """The flags that all scripts of this folder share."""

    out: Path = Path("outputs/reproduce")
    """Folder of the runs, shared by all scripts: one that several need is made once."""
    dry_run: bool = False
    """Runs nothing. Prints the commands, as a shell script, with their GPU hours, and then the
    table of the runs that are there."""
    toy: bool = False
    """The same with the models of scripts/quickstart.sh, on a CPU."""
    only: str = ""
    """Only the commands whose title has this text, such as 1.5B or aime-25."""
    gpu_flops: float = free(5e13)
    """For the estimate: FLOP/s that a GPU sustains while it generates. The default, an assumption,
    is a twentieth of an H100's bfloat16 peak; measure yours."""


@dataclass(frozen=True)
class Command:
    """One command of a plan.

    Attributes:
        title: What it is.
        words: The program and its arguments, as typed in the root of the repository.
        flops: FLOPs of generating and scoring; None if the size of a model is not known.
        is_done: Tells whether its output is complete. A command that isn't goes on where it was.
        training_flops: FLOPs of training.
        environment: Variables that are set for it.
        needs: Files and folders that must be there before.
    """

    title: str
    words: Sequence[str]
    flops: float | None
    is_done: Callable[[], bool]
    training_flops: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[Path] = ()

    @property
    def shell(self) -> str:
        """The command as a shell understands it, on lines that fit a terminal."""
        settings = [f"{name}={_quoted(value)}" for name, value in self.environment.items()]
        lines, line = [], ""
        for group in [*settings, *_grouped(self.words)]:
            if line and len(line) + len(group) + 3 > WIDTH:
                lines.append(line)
                line = f"    {group}"
            else:
                line = f"{line} {group}" if line else group
        return " \\\n".join([*lines, line])

    def run(self) -> int:
        """Runs it with this Python; returns its exit status."""
        program, *arguments = self.words
        program = sys.executable if program == "python" else program
        environment = {**os.environ, **self.environment}
        return subprocess.run([program, *arguments], env=environment, check=False).returncode


def _quoted(text: str) -> str:
    """Returns a text as a word of bash, on one line."""
    return "$'\\n'" if text == "\n" else shlex.quote(text)


def _grouped(words: Sequence[str]) -> list[str]:
    """Returns quoted words, a flag with its values in one."""
    groups: list[str] = []
    for word in words:
        is_value = groups and groups[-1].startswith("--") and not word.startswith("--")
        if is_value:
            groups[-1] += f" {shlex.quote(word)}"
        else:
            groups.append(shlex.quote(word))
    return groups


def carry_out(
    program: str,
    args: PlanArgs,
    commands: Sequence[Command],
    report: Callable[[bool], str],
    training_flops_per_second: float | None = None,
) -> int:
    """Runs the commands, or prints them with `--dry_run`, and then the report.

    Args:
        program: Name of the script.
        args: Its flags.
        commands: The whole plan, in order.
        report: Makes the table of the runs that are there; is told whether to write plots, too.
        training_flops_per_second: FLOP/s that a GPU sustains in training, if the plan trains.

    Returns:
        The exit status: 1 if a command failed, or lacks what it needs.

    Raises:
        InputError: If `--only` leaves no command.
    """
    positive(gpu_flops=args.gpu_flops, training_gpu_flops=training_flops_per_second)
    chosen = [command for command in commands if args.only in command.title]
    if not chosen:
        titles = some_of([command.title for command in commands], most=2)
        raise InputError(f"--only {args.only}: no command has that in its title ({titles})")
    if args.dry_run:
        print(format_plan(program, args, chosen, training_flops_per_second))
        print("\n" + "\n".join(f"# {line}".rstrip() for line in report(False).splitlines()))
        return 0
    problems = run_all(chosen)
    print(f"\n{report(True)}")
    for problem in problems:
        print(f"{program}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run_all(commands: Sequence[Command]) -> list[str]:
    """Runs what is not done; a command that fails doesn't keep the others from running.

    Returns:
        A line for each command that failed, or lacks what it needs.
    """
    problems = []
    for number, command in enumerate(commands, start=1):
        place = f"[{number}/{len(commands)}] {command.title}"
        missing = [str(path) for path in command.needs if not path.exists()]
        if command.is_done():
            print(f"{place}: is there", flush=True)
        elif missing:
            problems.append(f"{command.title}: left out, there is no {missing[0]}")
        else:
            print(f"\n{place}\n{command.shell}", flush=True)
            if status := command.run():
                problems.append(f"{command.title}: failed with status {status}")
    return problems


def format_plan(
    program: str, args: PlanArgs, commands: Sequence[Command], training: float | None
) -> str:
    """Returns the plan as a shell script with comments."""
    done = [command for command in commands if command.is_done()]
    total, there = (
        sum(gpu_hours(command, args.gpu_flops, training) for command in some)
        for some in (commands, done)
    )
    rates = f"{args.gpu_flops:.1e} FLOP/s a GPU"
    if training:
        rates += f"; three times that in training, at {training:.1e} FLOP/s"
    lines = [
        f"# {program}: {len(commands)} commands, {len(done)} of them done; "
        f"{format_hours(total)} in all, {format_hours(total - there)} to go",
        "# An estimate (scripts/reproduce/cost.py): 2 N tokens + 4 width contexts of policy and",
        f"# value model, at {rates}.",
        "# A search on n machines: its command with --shard 0/n, --shard 1/n, ..., and then",
        "# python -m search_lib.results.shards merge FOLDER/shard-*/records.jsonl "
        "--output_path FOLDER/records.jsonl",
    ]
    for number, command in enumerate(commands, start=1):
        cost = "size of a model not known"
        if command.flops is not None:
            cost_in_hours = gpu_hours(command, args.gpu_flops, training)
            flops = command.flops + command.training_flops
            cost = f"{flops:.1e} FLOPs, {format_hours(cost_in_hours)}"
        state = "; done" if command in done else ""
        lines += ["", f"# {number}/{len(commands)} {command.title}: {cost}{state}", command.shell]
    return "\n".join(lines)


def gpu_hours(command: Command, generating: float, training: float | None) -> float:
    """Returns the hours of one GPU; 0 where the size of a model is not known."""
    in_training = hours(command.training_flops, training) if training else 0.0
    return hours(command.flops or 0.0, generating) + in_training


def format_hours(value: float) -> str:
    """Returns GPU hours with two digits that count."""
    return f"{value:,.0f} GPU hours" if value >= 10 else f"{value:.2g} GPU hours"
