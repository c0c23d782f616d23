"""How the commands of the pipeline end."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import transformers

from run_lib.commands import InputError, exit_with_error
from search_lib.engines.base import EngineUnavailable

Args = TypeVar("Args")


class EngineRefuses(RuntimeError):
    """The engine refuses one row after the other."""


def run_command(program: str, stage: Callable[[Args], object], args: Args) -> None:
    """Runs a stage as a command: a line instead of a traceback for what a user can mend."""
    transformers.utils.logging.disable_progress_bar()
    try:
        stage(args)
    except InputError as error:
        exit_with_error(program, str(error))
    except (EngineUnavailable, EngineRefuses) as error:
        print(f"{program}: stopped: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: a normal exit would wait for the batch that is running
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # likewise; whole files are on disk
