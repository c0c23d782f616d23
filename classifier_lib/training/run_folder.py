"""The folder of a run: one process group at a time, and never two settings in one."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from classifier_lib.training.checkpoint_folders import (
    FINAL_FOLDER,
    check_checkpoint,
    choose_checkpoint,
    remove_leftovers,
    set_aside,
)
from classifier_lib.training.step import ADAM_BETAS, GRADIENT_CLIP
from run_lib.commands import InputError, naming
from run_lib.files import lock_file, write_json
from run_lib.fingerprints import DATA_FILES, MODEL_FILES, fingerprint
from run_lib.processes import Processes
from run_lib.settings import Settings, SettingsFile, as_json, free_flags

CONFIG_FILE = "config.json"
LOCK_FILE = ".run.lock"


class RunArgs(Protocol):
    """The flags of a training command that its folder depends on; a frozen dataclass."""

    @property
    def run_name(self) -> str:
        """Name of the run."""

    @property
    def output_dir(self) -> Path:
        """Folder of the runs."""

    @property
    def model_path(self) -> str:
        """Model to start from."""

    @property
    def data_path(self) -> str:
        """Training data."""

    @property
    def resume_from(self) -> str | None:
        """Checkpoint to go on from, instead of the newest one."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, as it was found.

    Attributes:
        path: The folder.
        config: Flags of the run as they are saved, with digests of the contents of its inputs.
        checkpoint: Complete checkpoint to go on from; None for a run to start.
        later: Checkpoints after it, which its user doesn't want.
        is_finished: Whether the final model is there.
    """

    path: Path
    config: dict[str, Any]
    checkpoint: Path | None
    later: list[Path]
    is_finished: bool

    @property
    def final(self) -> Path:
        """Folder of the final model."""
        return self.path / FINAL_FOLDER

    def prepare(self) -> None:
        """Removes the leftovers of a killed run and saves the settings; rank 0 calls this.

        Checkpoints after the one to go on from are renamed.
        """
        remove_leftovers(self.path)
        write_json(self.path / CONFIG_FILE, self.config)
        for checkpoint in self.later:
            print(f"set aside: {checkpoint} is now {set_aside(checkpoint).name}")


@contextlib.contextmanager
def open_run(
    args: RunArgs,
    processes: Processes,
    parse: Callable[[dict[str, Any]], Settings] = Settings.load,
) -> Iterator[RunFolder]:
    """Finds the folder of a run and keeps other starts of the run out; every process calls this.

    Args:
        args: The flags.
        processes: The processes of the run.
        parse: Reads the settings of an earlier start, see `SettingsFile`.

    Raises:
        InputError: On every process, if the machines don't share the folder, another start of the
            run is in it, or its checkpoints are of flags that train other weights.
        CheckpointError: On every process, if the checkpoint to go on from is damaged.
    """
    path = args.output_dir / args.run_name
    settings = run_settings(args)
    with contextlib.ExitStack() as stack:

        def find() -> tuple[bool, Path | None, list[Path]]:
            stack.enter_context(locked(path))
            if (path / FINAL_FOLDER).exists():
                return True, None, []
            return False, *choose_checkpoint(path, args.resume_from)

        # Rank 0 looks for all: a shared file system may show others an older state.
        is_finished, checkpoint, later = processes.on_main(find)
        if not all(processes.all_gather_objects((path / LOCK_FILE).exists())):
            raise InputError(
                f"--output_dir {args.output_dir} is not shared by the machines: some don't see "
                f"{path / LOCK_FILE}"
            )
        if checkpoint or is_finished:
            advice = "Use another --run_name for another run"
            free = free_flags(args)
            file = SettingsFile(path / CONFIG_FILE, path, advice, free, parse)
            file.check(settings)
        if checkpoint:
            check_checkpoint(checkpoint, processes)
        yield RunFolder(path, settings.document(), checkpoint, later, is_finished)


def run_settings(args: RunArgs) -> Settings:
    """Returns the flags of a run, with digests by which new policies and data are told apart."""
    contents = {
        "model_path": fingerprint(args.model_path, MODEL_FILES),
        "data_path": fingerprint(args.data_path, DATA_FILES),
    }
    return Settings(as_json(args), contents)


NEW_FLAGS = {
    "dataset_size": -1,
    "disable_lr_schedule": False,
    "beta1": ADAM_BETAS[0],
    "beta2": ADAM_BETAS[1],
    "grad_norm_clip": GRADIENT_CLIP,
}
"""Flags that earlier versions did not have, as they trained."""


def parse_settings(document: dict[str, Any]) -> Settings:
    """Reads train_classifier.py's `config.json`, also of an earlier version, into its flags now."""
    saved = Settings.load(document)
    flags = {**NEW_FLAGS, **saved.flags}
    if NEW_FLAGS.keys() - saved.flags and flags["num_steps"] != -1:
        flags["num_epochs"] = None  # had a default that played no part
    return Settings(flags, saved.contents)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes the folder of a run and locks it; in the end removes one that has stayed empty.

    Raises:
        InputError: If another process holds the lock, or the folder can't be made.
    """
    with naming("--output_dir", OSError):
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_file(path / LOCK_FILE, f"another process trains in {path}")
    with lock:
        try:
            yield
        finally:
            if [entry.name for entry in path.iterdir()] == [LOCK_FILE]:
                shutil.rmtree(path)
