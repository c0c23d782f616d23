"""Uploads to the Hugging Face Hub: of checkpoints while training goes on, then of the model."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from classifier_lib.training.args import HubFlags
from classifier_lib.training.checkpoints import SHARDS, TRAINER_STATE, Checkpointer
from classifier_lib.training.run_folder import RunFolder
from run_lib.hub import NotPushed, push_folder
from run_lib.processes import Processes


class PushedRunArgs(Protocol):
    """The flags of a training command that its uploads depend on; a frozen dataclass."""

    @property
    def run_name(self) -> str:
        """Name of the run."""

    @property
    def max_keep_ckpts(self) -> int:
        """Checkpoints to keep."""

    @property
    def hub(self) -> HubFlags:
        """What is pushed."""


def repository(args: PushedRunArgs) -> str:
    """Returns the id of the Hub repository that the final model is for."""
    return args.hub.hub_model_id or args.run_name


@contextlib.contextmanager
def open_checkpointer(
    args: PushedRunArgs, folder: RunFolder, processes: Processes
) -> Iterator[Checkpointer]:
    """Opens what saves the checkpoints of a run, and pushes them where that is asked for.

    A run that is finished in the end waits until they are pushed. Every process calls this.
    """
    is_pushed = processes.rank == 0 and args.hub.push_checkpoints
    uploads = CheckpointUploads(repository(args)) if is_pushed else None
    on_published = uploads.add if uploads else None
    with contextlib.closing(
        Checkpointer(folder.path, processes, args.max_keep_ckpts, on_published)
    ) as checkpointer:
        yield checkpointer
    if uploads and folder.final.exists():
        uploads.finish()


def push_final(args: PushedRunArgs, folder: RunFolder, processes: Processes) -> None:
    """Pushes the final model of a finished run, if that is asked for.

    Raises:
        NotPushed: If that fails.
    """
    if processes.rank == 0 and args.hub.push_to_hub and folder.final.exists():
        print(f"pushed to {push_folder(folder.final, repository(args))}")


class CheckpointUploads:
    """Pushes checkpoints one after the other in a thread; one that fails is a warning.

    A checkpoint goes without the state of the optimizer. What is not pushed when the process ends
    is not pushed later.

    Args:
        repo_id: Repository of the run; step N goes to `<repo_id>-step-N`.
    """

    def __init__(self, repo_id: str):
        self._repo_id = repo_id
        self._queue: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        # A daemon: a run that is told to stop doesn't wait for the network.
        self._thread = threading.Thread(target=self._push_all, name="uploads", daemon=True)
        self._thread.start()

    def add(self, checkpoint: Path) -> None:
        """Pushes a checkpoint `step_N` as soon as those before it are pushed."""
        self._queue.put(checkpoint)

    def finish(self) -> None:
        """Waits until all are pushed."""
        self._queue.put(None)
        self._thread.join()

    def _push_all(self) -> None:
        while (checkpoint := self._queue.get()) is not None:
            repo_id = f"{self._repo_id}-{checkpoint.name.replace('_', '-')}"
            try:
                url = push_folder(checkpoint, repo_id, leave_out=(f"{SHARDS}/*", TRAINER_STATE))
                tqdm.write(f"pushed {checkpoint.name} to {url}")
            except NotPushed as error:
                tqdm.write(f"warning: {error}; training goes on")
