"""The settings of a run: saved beside its records, compared before any are added."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from run_lib.commands import InputError
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.settings import Settings, SettingsFile, as_json, read_document
from search_lib.benchmarks import Problem, problems_digest
from search_lib.scorers.registry import PLUGIN, family_of
from search_lib.search_flags import SearchFlags
from search_lib.vote_flags import VoteFlags

CONFIG_NAME = "run_config.json"

FORMER_FLAGS = frozenset({"batch_size", "piref_gpu_util"})
"""Flags of earlier versions that changed no result; their names are aliases now."""

READ_FLAGS = (
    *("benchmark", "search_type", "num_blocks", "num_repetitions", "output_path"),
    *("piref_model", "classifier_ckpt_path"),
)
"""Flags that the programs that work on records need to know."""


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run.

    Attributes:
        flags: Flags of `inference_eval.py`, as JSON types; `output_path` is the file's name only.
        fingerprints: By flag, of the content that it names; None where that was not looked at.
        problem_ids: Ids of the benchmark, in its order.
    """

    flags: dict[str, Any]
    fingerprints: dict[str, str | None]
    problem_ids: list[str]

    @classmethod
    def of(cls, flags: SearchFlags, problems: Sequence[Problem], **named: Any) -> Self:
        """Returns the settings that the results of a search depend on.

        Args:
            flags: All flags of the run.
            problems: Its problems.
            **named: Values that are to stand in place of those of the flags.
        """
        value_model, plugin = flags.value_model, flags.plugin_flag.plugin
        return cls(
            flags=as_json(flags) | {"classifier_ckpt_path": value_model} | named,
            fingerprints={
                "benchmark": problems_digest(problems),
                "piref_model": fingerprint(flags.piref_model, MODEL_FILES),
                "classifier_ckpt_path": value_model and fingerprint(value_model, MODEL_FILES),
                "plugin": fingerprint(plugin) if plugin else None,
            },
            problem_ids=[problem.id for problem in problems],
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Reads `run_config.json`; returns None if there is none.

        Raises:
            InputError: If it is damaged.
        """
        return read_document(folder / CONFIG_NAME, cls._parse)

    @classmethod
    def find(cls, run: Path) -> tuple[Path, Self]:
        """Returns the records of a run and its configuration.

        Args:
            run: Folder of the run, or its file of records.

        Raises:
            InputError: If there are no records, or they are of an unknown run.
        """
        folder = run if run.is_dir() else run.parent
        config = cls.load(folder)
        path = folder / config.flags["output_path"] if config and run.is_dir() else run
        if not path.is_file():
            raise InputError(f"{path}: there is no such file of records")
        if config is None:
            raise InputError(f"{path}: no {CONFIG_NAME} beside it says what run it is of")
        if config.flags["output_path"] != path.name:
            raise InputError(f"{path}: the {CONFIG_NAME} beside it is of another file")
        return path, config

    @classmethod
    def _parse(cls, document: dict[str, Any]) -> Self:
        for name in READ_FLAGS:
            document[name]
        if document.pop("use_sglang_server", False):  # in earlier versions beside `engine`
            document["engine"] = "sglang_server"
        # Earlier versions knew no other.
        document.setdefault("answer_format", "boxed")
        document.setdefault("stop", "never")
        document.setdefault("think_tags", "auto")
        problem_ids = list(document.pop("problem_ids"))
        settings = Settings.load(document)
        return cls(dict(settings.flags), dict(settings.contents), problem_ids)

    @property
    def has_values(self) -> bool:
        """Whether a value model takes part."""
        return self.flags["classifier_ckpt_path"] is not None

    @property
    def value_model_digest(self) -> str | None:
        """Digest of the value model; None if there was none, or it was not looked at."""
        return self.fingerprints.get("classifier_ckpt_path")

    @property
    def vote_flags(self) -> VoteFlags:
        """The votes that the run asks for; earlier versions knew only the default ones."""
        calibration = self.flags.get("calibration")
        votes = tuple(self.flags.get("vote", ()))
        return VoteFlags(votes, calibration and Path(calibration))

    @property
    def is_stopped(self) -> bool:
        """Whether problems stop when their trees are enough."""
        return self.flags.get("stop", "never") != "never"

    @property
    def settings(self) -> Settings:
        """The flags and the contents that they name."""
        return Settings(self.flags, self.fingerprints)

    def document(self) -> dict[str, Any]:
        """Returns the content of `run_config.json`."""
        return self.settings.document() | {"problem_ids": self.problem_ids}

    def bind(self, output_path: Path, free: Collection[str]) -> None:
        """Saves the configuration beside new records, or compares it with that of earlier ones.

        Args:
            output_path: The records. The folder of a run has one such file: earlier records are
                those of the name that the saved configuration gives.
            free: Flags that may differ.

        Raises:
            InputError: Naming every flag that differs, or if records stand there without one.
        """
        folder = output_path.parent
        earlier = RunConfig.load(folder)
        records = folder / earlier.flags["output_path"] if earlier else output_path
        free = FORMER_FLAGS | set(free)
        families = earlier and (family_of(earlier.flags), family_of(self.flags))
        if families and (families[0] != families[1] or PLUGIN in families):
            free -= {"scorer"}  # any two of a family are equal
        file = SettingsFile(
            folder / CONFIG_NAME,
            records,
            "Give this run a folder of its own with --output_path",
            free,
            parse=lambda document: RunConfig._parse(document).settings,
        )
        file.bind(self.settings, not holds_something(records), self.document())


class ProblemSet(NamedTuple):
    """The problems of a run.

    Attributes:
        run: Name of the run in messages.
        ids: Their ids.
        digest: Of their contents; None if that is not known.
    """

    run: str
    ids: Sequence[str]
    digest: str | None


def check_same_problems(sets: Sequence[ProblemSet]) -> None:
    """Raises ValueError unless all runs are of the same problems; begins with the runs."""
    first = sets[0]
    for other in sets[1:]:
        names = f"{first.run} and {other.run} are of different problems"
        if list(other.ids) != list(first.ids):
            common = len(set(first.ids) & set(other.ids))
            raise ValueError(f"{names}: {len(first.ids)} and {len(other.ids)}, {common} in common")
        if first.digest and other.digest and first.digest != other.digest:
            raise ValueError(f"{names}: their ids are the same, and their texts are not")


def holds_something(path: Path) -> bool:
    """Returns whether a file was ever written to."""
    return path.exists() and path.stat().st_size > 0
