"""The flags of whoever answers single questions: `ask.py` and the server."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from run_lib.commands import InputError, parse_command_line, run_command
from search_lib.benchmarks import MATH_INSTRUCTION
from search_lib.engines.base import Sampling
from search_lib.problem_flags import AnswerFlags
from search_lib.search_flags import SearchFlags

TOY_MODELS = Path("outputs/quickstart")
"""Where scripts/quickstart.sh puts its models."""

MODEL_HELP = (
    "Hub id or folder. Without --piref_model and --classifier_ckpt_path: the models and settings "
    f"of the toy task, if scripts/quickstart.sh has put them into {TOY_MODELS}; else "
)

Flags = TypeVar("Flags", bound="QuestionFlags")


@dataclass(frozen=True)
class QuestionFlags(SearchFlags, AnswerFlags):
    """How a question is asked, searched and answered."""

    piref_model: Annotated[
        str, tyro.conf.arg(help=f"The policy. {MODEL_HELP}{SearchFlags.piref_model}.")
    ] = ""
    classifier_ckpt_path: Annotated[
        str,
        tyro.conf.arg(
            help=f"The model of --scorer. {MODEL_HELP}{SearchFlags.classifier_ckpt_path}."
        ),
    ] = ""
    instruction: str | None = None
    """Added to the question. By default that of the answer format: think step by step, and box the
    final answer; '' for none."""

    def check(self) -> None:
        """Raises InputError for values that no question can have; see `SearchFlags.check`."""
        super().check()
        check_text("--instruction", self.instruction or "")

    @property
    def names_models(self) -> bool:
        """Whether a model was named."""
        return bool(self.piref_model or self.classifier_ckpt_path)

    def published_models(self: Flags) -> Flags:
        """Returns these flags with the published models where none was named."""
        return replace(
            self,
            piref_model=self.piref_model or SearchFlags.piref_model,
            classifier_ckpt_path=self.classifier_ckpt_path or SearchFlags.classifier_ckpt_path,
        )

    def find_instruction(self) -> str:
        """Returns what is added to a question."""
        if self.instruction is not None:
            return self.instruction
        return self.find_format().instruction or MATH_INSTRUCTION


def check_text(name: str, text: str) -> None:
    """Raises InputError if a text holds bytes of the command line that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} is not UTF-8: {error}") from error


def toy_defaults(flags: type[Flags], folder: Path = TOY_MODELS) -> dict[str, object] | None:
    """Returns the settings of the quickstart's models, by flag; None if they are not there."""
    policy, value_model = folder / "policy", folder / "value_model" / "final"
    if not (policy.is_dir() and value_model.is_dir()):
        return None
    return {
        "piref_model": str(policy),
        "classifier_ckpt_path": str(value_model),
        "instruction": "",
        "sampling": Sampling(temperature=1.0, top_p=1.0),
        "block_size": 12,
        "max_length": 96,
        "num_blocks": 4,
        "num_repetitions": 4,
    }


def read_command_line(
    flags: type[Flags], program: str, description: str | None
) -> tuple[Flags, str | None]:
    """Returns the checked flags of a command, and a line on models that its user did not name.

    Where no model is named and the toy models are there, their settings are the defaults.

    Args:
        flags: The dataclass of the flags; every one has a default.
        program: Name of the command, as its user types it.
        description: Docstring of the command's module, for `--help`.

    Raises:
        SystemExit: With status 2, if a flag is at fault; after `--help` with status 0.
    """
    args, remark = parse_command_line(flags, program, description), None
    if not args.names_models:
        toy = toy_defaults(flags)
        if toy is not None:
            default = flags(**toy)  # type: ignore[arg-type]
            args = parse_command_line(flags, program, description, default=default)
            remark = f"no model is named: those of the toy task, with its settings ({TOY_MODELS})"
        else:
            remark = (
                "no model is named, and scripts/quickstart.sh has put none into "
                f"{TOY_MODELS}: the published ones"
            )
    args = args.published_models()
    run_command(program, args.check)
    return args, remark
