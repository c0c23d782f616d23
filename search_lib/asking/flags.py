"""The flags of whoever answers single questions: `ask.py` and the server."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

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
