"""The flags of `ask.py`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from run_lib.commands import InputError, naming
from search_lib.asking.flags import QuestionFlags, check_text

PROGRAM = "ask.py"

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class AskArgs(QuestionFlags):
    """One question. Its budget is num_blocks x num_repetitions."""

    question: tyro.conf.Positional[str] = ""
    """What is asked; - reads it from standard input."""
    reference: str | None = None
    """The right answer, if you know it: the end says whether it was found."""
    save: Path | None = None
    """Folder for a record of the searches, which scripts/report.py opens. There must be none."""
    prints_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Prints one JSON object on standard output, and all else on standard error."""

    def check(self) -> None:
        """Raises InputError for values that no question can have; see `SearchFlags.check`."""
        super().check()
        self.find_format()
        if not self.question.strip():
            raise InputError("the question is empty; give it as one argument, or - to read it")
        if self.save is None:
            return
        with naming("--save", OSError):
            if not is_free(self.save):
                raise InputError(
                    f"--save {self.save}: there is something already, and a record has a folder of "
                    "its own"
                )

    def read_question(self) -> str:
        """Returns the question, from standard input if it is to be read there.

        Raises:
            InputError: If that is empty, or no text.
        """
        if self.question != STANDARD_INPUT:
            text = self.question
        else:
            try:
                text = sys.stdin.buffer.read().decode().strip()
            except UnicodeDecodeError as error:
                raise InputError(f"standard input is not UTF-8: {error}") from error
            if not text:
                raise InputError("the question on standard input is empty")
        check_text("the question", text)
        return text


def is_free(folder: Path) -> bool:
    """Returns whether nothing stands at a path, or an empty folder."""
    if folder.is_dir() and not folder.is_symlink():
        return not any(folder.iterdir())
    return not os.path.lexists(folder)
