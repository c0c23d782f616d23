"""How commands read their flags, name what is wrong with them, and end."""

import contextlib
import errno
import importlib.util
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, TypeVar

import tyro

from run_lib.interrupts import GOES_ON, INTERRUPTED_STATUS, leave
from run_lib.text import one_line

Args = TypeVar("Args")

GPU_REQUIREMENTS = "pip install -r requirements-gpu.txt -c constraints.txt"
"""How to get what needs a GPU, for messages."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of a disk that is full, read-only or broken, or of a quota."""


class InputError(ValueError):
    """The user's input is at fault; the message names the flag, file, line or row."""


class RunStopped(RuntimeError):
    """The run can't go on for a reason outside of its input; the message says which.

    When that is mended, the same command goes on. Commands raise subclasses that name the reason: a
    server that stays away, an engine that refuses, a disk that is full.
    """


@contextlib.contextmanager
def naming(flag: str, *more: type[Exception]) -> Iterator[None]:
    """Turns a library's `ValueError` into the error of the flag that the user typed.

    Libraries don't know flags: their messages begin with the value that is at fault.

        with naming("--piref_model"):
            config = load_config(args.piref_model)

    An `InputError` names its flag already and passes unchanged.

    Args:
        flag: The flag, with its dashes.
        *more: Other errors that are the fault of the flag's value, such as `OSError` where a file
            that it names is opened.

    Raises:
        InputError: In place of such an error of the block.
    """
    errors: tuple[type[Exception], ...] = (ValueError, *more)
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{flag} {one_line(error)}") from error


def at_least(least: int, **values: float | None) -> None:
    """Checks flags whose values must not be smaller than some number, nor NaN or infinite.

    Args:
        least: The smallest value allowed.
        **values: Value by flag, without dashes; None for a flag that was left out.

    Raises:
        InputError: Naming the first flag that is smaller.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise InputError(f"--{name} must be at least {least}, got {value}")
        if value == math.inf:
            raise InputError(f"--{name} must be finite, got {value}")


def positive(**values: float | None) -> None:
    """Checks flags whose values must be larger than 0, and neither NaN nor infinite.

    Args:
        **values: Value by flag, without dashes; None for a flag that was left out.

    Raises:
        InputError: Naming the first flag that is not.
    """
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            what = "finite" if value == math.inf else "positive"
            raise InputError(f"--{name} must be {what}, got {value}")


def check_installed(package: str, what: str, how: str) -> None:
    """Checks that an optional package is there, without importing it.

    Args:
        package: Name of the package, as it is imported; capitals are for the message.
        what: What needs it, for the message.
        how: How to get it.

    Raises:
        InputError: If it is missing.
    """
    if importlib.util.find_spec(package.lower()) is None:
        raise InputError(f"{what} needs {package}: {how}")


def parse_shard(shard: str) -> tuple[int, int]:
    """Returns the numbers of `--shard i/n`: (which part, of how many).

    Raises:
        InputError: If it is anything else, or i is not in [0, n).
    """
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"--shard {shard}: expected i/n with i from 0 to n - 1, e.g. 0/2")
    return int(match[1]), int(match[2])


def parse_command_line(
    args: type[Args],
    program: str,
    description: str | None,
    argv: Sequence[str] | None = None,
    unsupported: Mapping[str, str] | None = None,
    default: Args | None = None,
) -> Args:
    """Reads the flags of a command; a dataclass that nests others gives one flat set of flags.

    Args:
        args: Dataclass of the flags.
        program: Name of the command, as its user types it.
        description: Docstring of the command's module, for `--help`.
        argv: The command line; by default that of this process.
        unsupported: What to use instead of published flags that there are not here, by flag.
        default: Values of flags that are left out; by default those of the dataclass.

    Raises:
        SystemExit: With status 2, and a line on standard error, if the flags can't be read or a
            number isn't finite.
    """
    _open_streams()
    for argument in sys.argv[1:] if argv is None else argv:
        flag, _, _ = argument.replace("-", "_").partition("=")
        if advice := (unsupported or {}).get(flag.removeprefix("__")):
            end(2, f"{program}: error: --{flag[2:]} is not supported: {advice}")
    try:
        try:
            parsed = tyro.cli(
                args,
                args=argv,
                default=tyro.MISSING_NONPROP if default is None else default,
                prog=program,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                use_underscores=True,
            )
        finally:
            sys.stdout.flush()
    except OSError as error:  # nobody reads the help any more
        end(1, f"{program}: stopped: {one_line(error)}")
    for name, value in _endless_numbers(parsed):
        end(2, f"{program}: error: --{name} must be a finite number, got {value}")
    return parsed


def _open_streams() -> None:
    """Opens standard streams that are closed (`>&-`) on the null device.

    Python has None in their place, and the next file that is opened would get their number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def check_command_line(
    args: type[Args],
    program: str,
    description: str | None,
    unsupported: Mapping[str, str] | None = None,
) -> Args:
    """Answers `--help`, and refuses flags that no run can have; see `parse_command_line`.

    Every command begins with it, ahead of imports that take seconds: its flags, in a module that
    imports little, are checked by their own `check`.

        if __name__ == "__main__":  # ahead of imports that take seconds
            from run_lib.interrupts import leave_on_interrupt

            leave_on_interrupt()

            from data_prep.args import LABEL, LabelArgs
            from run_lib.commands import check_command_line

            check_command_line(LabelArgs, LABEL, __doc__)

    Raises:
        SystemExit: With status 2, if a flag is at fault; after `--help` with status 0.
    """
    parsed = parse_command_line(args, program, description, None, unsupported)
    if check := getattr(parsed, "check", None):
        run_command(program, check)
    return parsed


def _endless_numbers(flags: Any) -> Iterator[tuple[str, float]]:
    """Yields the flags of a dataclass, and of those in it, whose value is infinite or NaN."""
    for entry in fields(flags):
        value = getattr(flags, entry.name)
        if is_dataclass(value):
            yield from _endless_numbers(value)
        elif isinstance(value, float) and not math.isfinite(value):
            yield entry.name, value


def run_command(
    program: str,
    command: Callable[[], int | None],
    at_once: bool = False,
    interrupted: str = GOES_ON,
) -> None:
    """Runs a command to its end: a status, and one line instead of a traceback.

    | ends with | status | line on standard error |
    |---|---|---|
    | a return | what is returned, else 0 | |
    | `InputError` | 2 | `PROGRAM: error: ...` |
    | `RunStopped` | 1 | `PROGRAM: stopped: ...` |
    | `OSError`: a disk that is full, a folder that is gone | 1 | `PROGRAM: stopped: ...` |
    | Ctrl-C | 130 | that of `interrupted` |
    | SIGTERM, if the command handles none | 143, as shells have it | |

    Args:
        program: Name of the command, as its user types it.
        command: Does the work.
        at_once: Whether all but the first two end the process without waiting for its threads, of
            which one may be computing a batch that nobody wants any more.
        interrupted: What Ctrl-C says; by default that the same command goes on. Where it says
            anything else, the line on a full disk doesn't say so, either.

    Raises:
        SystemExit: With a status other than 0.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[_StandardError()])
    try:
        with interrupts_raise():
            status = command() or 0
            sys.stdout.flush()
    except InputError as error:
        end(2, f"{program}: error: {one_line(error)}")
    except RunStopped as error:
        end(1, f"{program}: stopped: {one_line(error)}", at_once)
    except OSError as error:
        goes_on = error.errno in DISK_ERRORS and interrupted == GOES_ON
        advice = "; the same command goes on" if goes_on else ""
        end(1, f"{program}: stopped: {one_line(error)}{advice}", at_once)
    except KeyboardInterrupt:
        end(INTERRUPTED_STATUS, interrupted, at_once)
    if status:
        raise SystemExit(status)


class _StandardError(logging.Handler):
    """Writes messages to standard error as it is then: a picture on a terminal takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            self.handleError(record)


@contextlib.contextmanager
def interrupts_raise() -> Iterator[None]:
    """Has Ctrl-C raise KeyboardInterrupt within the block, after `leave_on_interrupt`."""
    if signal.getsignal(signal.SIGINT) is not leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, leave)


def end(status: int, line: str, at_once: bool = False) -> NoReturn:
    """Ends this process with a status and a line on standard error; see `run_command`."""
    try:
        sys.stdout.flush()
    except OSError:  # a pipe that nobody reads any more, or a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(line, file=sys.stderr, flush=True)
    if at_once:
        os._exit(status)
    raise SystemExit(status)
