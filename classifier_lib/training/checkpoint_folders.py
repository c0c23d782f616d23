"""The folders of checkpoints: those of a run, and whether their files are intact."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from run_lib.checksums import (
    CHECKSUMS_FILE,
    describe_faults,
    files_without_checksum,
    find_faults,
)
from run_lib.commands import InputError, RunStopped, run_command
from run_lib.files import read_json

if TYPE_CHECKING:
    from run_lib.processes import Processes

PROGRAM = "classifier_lib.training.checkpoints"

TRAINER_STATE = "trainer_state.json"
FINAL_FOLDER = "final"


class CheckpointError(RunStopped):
    """A checkpoint can't be written or read; the message names its folder and the reason."""


def find_checkpoints(run_dir: Path) -> list[Path]:
    """Returns the complete checkpoints of a run, oldest first."""
    found = []
    for path in run_dir.glob("step_*"):
        if match := re.fullmatch(r"step_(\d+)", path.name):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def choose_checkpoint(run_dir: Path, name: str | None) -> tuple[Path | None, list[Path]]:
    """Finds the checkpoint that a run goes on from.

    Args:
        run_dir: Folder of the run.
        name: Checkpoint that its user asks for; None for the newest one. Checkpoints that were
            saved since it was asked for go before it, so that a job that is started again by
            itself does not lose them.

    Returns:
        The checkpoint, None if there is none; and those to set aside, the newest one last.

    Raises:
        InputError: If there is no such checkpoint.
    """
    checkpoints = find_checkpoints(run_dir)
    newest = checkpoints[-1] if checkpoints else None
    if name is None or (newest and _asked_for(newest) == name):
        return newest, []
    if run_dir / name not in checkpoints:
        there = ", ".join(path.name for path in checkpoints) or "no checkpoint"
        raise InputError(f"--resume_from {name}: {run_dir} has {there}")
    place = checkpoints.index(run_dir / name)
    return checkpoints[place], checkpoints[place + 1 :]


def _asked_for(checkpoint: Path) -> str | None:
    """Returns the `--resume_from` of the run that saved a checkpoint."""
    try:
        return (read_json(checkpoint / TRAINER_STATE) or {}).get("resume_from")
    except InputError:  # damaged
        return None


def set_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint, so that its run neither goes on from it nor removes it.

    Returns:
        Its new path.
    """
    path = checkpoint.with_name(f"{checkpoint.name}.set_aside")
    number = 1
    while path.exists():
        number += 1
        path = checkpoint.with_name(f"{checkpoint.name}.set_aside_{number}")
    return checkpoint.rename(path)


def remove_leftovers(run_dir: Path) -> None:
    """Removes the temporary folders and files of a run that was killed while writing."""
    for path in run_dir.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_checkpoint(checkpoint: Path, processes: "Processes") -> None:
    """Compares the files of a checkpoint with their checksums; every process calls this.

    One without checksums, of an earlier version, passes with a warning.

    Raises:
        CheckpointError: On every process, if a file is damaged; it names the newest checkpoint
            before it that is intact.
    """
    faults = _find_faults(checkpoint, processes)
    if faults is None and processes.rank == 0:
        print(f"warning: {checkpoint} has no {CHECKSUMS_FILE}: its files are not checked")
    if not faults:
        return
    checkpoints = processes.from_main(find_checkpoints(checkpoint.parent))
    for older in reversed(checkpoints[: checkpoints.index(checkpoint)]):
        if _find_faults(older, processes) == {}:
            advice = f"{older.name} is intact: --resume_from {older.name} goes on from there"
            break
    else:
        advice = "no checkpoint before it is known to be intact"
    raise CheckpointError(f"{checkpoint} is damaged: {describe_faults(faults)}; {advice}")


def _find_faults(folder: Path, processes: "Processes") -> dict[str, str] | None:
    """Finds the faults of a folder, each process in a part of its files."""
    found = find_faults(folder, part=processes.rank, num_parts=processes.world_size)
    parts = processes.all_gather_objects(found)
    if all(part is None for part in parts):
        return None
    faults: dict[str, str] = {}
    for part in parts:
        faults |= {CHECKSUMS_FILE: "is not seen by all machines"} if part is None else part
    return faults


def verify(folder: tyro.conf.Positional[Path]) -> int:
    """Compares a checkpoint, all checkpoints of a run and its final model, or an exported model.

    Prints a line for each folder, and one for each file that is damaged, missing or without a
    checksum.

    Args:
        folder: Folder of a checkpoint, of a run, or of an exported model.

    Returns:
        0 if every file that has to be there is intact; 1 if one isn't, or a folder has no
        checksums.

    Raises:
        InputError: If there is nothing to compare.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    folders = [*find_checkpoints(folder), folder / FINAL_FOLDER]
    folders = [path for path in folders if path.exists()]
    if (folder / CHECKSUMS_FILE).exists() or not folders:
        folders = [folder]
    intact = [_verify_one(path) for path in folders]  # all of them
    return int(not all(intact))


def _verify_one(folder: Path) -> bool:
    """Verifies one folder, prints what it finds, and returns whether it is intact."""
    faults = find_faults(folder)
    if faults is None:
        print(f"{folder}: not checked, it has no {CHECKSUMS_FILE}")
        return False
    print(f"{folder}: {'DAMAGED' if faults else 'intact'}")
    for name, fault in sorted(faults.items()):
        print(f"    {name} {fault}")
    if CHECKSUMS_FILE not in faults:
        for name in files_without_checksum(folder):
            print(f"    {name} is extra: it has no checksum")
    return not faults


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `python -m classifier_lib.training.checkpoints`."""
    run_command(
        PROGRAM,
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"verify": verify}, args=argv, prog=PROGRAM, use_underscores=True
        ),
    )
