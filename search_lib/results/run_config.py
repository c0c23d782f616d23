"""What a run was started with: saved beside its records, compared before any are added."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from run_lib.commands import InputError
from run_lib.files import write_json

CONFIG_NAME = "run_config.json"

FREE_FLAGS = frozenset(
    {
        "max_concurrent",
        "batch_size",
        "value_cache_tokens",
        "attention_impl",
        "scorer",
        "scorer_url",
        "sglang_url",
        "sglang_patience",
        "sglang_port",
        "tp_size",
        "dp_size",
        "piref_gpu_util",
        "neptune_project",
    }
)
"""What may differ between two processes that work on the same run: it changes no result."""

READ_FLAGS = (
    *("benchmark", "search_type", "num_blocks", "num_repetitions", "output_path"),
    *("piref_model", "classifier_ckpt_path"),
)
"""What the programs that work on records need to know."""


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run.

    Args:
        flags: of ``inference_eval.py``, as JSON types; ``output_path`` is the file's name only.
        fingerprints: by flag, of the content that it names; None where that was not looked at.
        problem_ids: of the benchmark, in its order.
    """

    flags: dict[str, Any]
    fingerprints: dict[str, str | None]
    problem_ids: list[str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            FileNotFoundError: if there is none.
            InputError: if it is damaged.
        """
        path = folder / CONFIG_NAME
        try:
            flags = json.loads(path.read_text(encoding="utf-8"))
            for name in READ_FLAGS:
                flags[name]
            return cls(flags, dict(flags.pop("fingerprints")), list(flags.pop("problem_ids")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is damaged, or of another version of this program: "
                f"{type(error).__name__}: {error}"
            ) from error

    def save(self, folder: Path) -> None:
        """Writes ``run_config.json``."""
        rest = {"fingerprints": self.fingerprints, "problem_ids": self.problem_ids}
        write_json(folder / CONFIG_NAME, self.flags | rest)

    def differences(
        self, other: "RunConfig", free: frozenset[str] = FREE_FLAGS, words: str = "was {}, now {}"
    ) -> list[str]:
        """One description for each flag that ``other`` has otherwise, or whose content differs.

        Args:
            other: the configuration asked for now.
            free: flags that may differ.
            words: how the two values are told.
        """
        names = [*other.flags, *(self.flags.keys() - other.flags.keys())]
        values = {name: (self.flags.get(name), other.flags.get(name)) for name in names}
        contents = [
            name
            for name, fingerprint in other.fingerprints.items()
            if self.fingerprints.get(name) != fingerprint and values[name][0] == values[name][1]
        ]
        return [
            f"--{name} ({words.format(repr(one), repr(two))})"
            for name, (one, two) in values.items()
            if name not in free and one != two
        ] + [f"--{name} (the content of {values[name][0]} differs)" for name in contents]


def bind_folder(output_path: Path, config: RunConfig) -> None:
    """Saves the configuration beside new records, or compares it with that of earlier ones.

    Raises:
        InputError: naming every flag that differs, or if records stand there without one.
    """
    folder = output_path.parent
    try:
        earlier = RunConfig.load(folder)
    except FileNotFoundError:
        if holds_something(output_path):
            raise InputError(
                f"{output_path} is not empty, and no {CONFIG_NAME} beside it says what run it "
                "is of; it was left alone"
            ) from None
        config.save(folder)
        return
    earlier_output = folder / earlier.flags["output_path"]
    if not holds_something(earlier_output):
        # A run that never got as far as a record binds nobody.
        config.save(folder)
    elif differing := earlier.differences(config):
        raise InputError(
            f"{earlier_output} is of another configuration; differing: {', '.join(differing)}. "
            "Give this run a folder of its own with --output_path"
        )


def holds_something(path: Path) -> bool:
    """Whether a file was ever written to."""
    return path.exists() and path.stat().st_size > 0
