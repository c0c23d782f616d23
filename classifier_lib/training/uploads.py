"""Uploads of checkpoints to the Hugging Face Hub, while training goes on."""

import queue
import threading
from pathlib import Path

from tqdm import tqdm

from classifier_lib.training.checkpoints import SHARDS, TRAINER_STATE
from run_lib.hub import NotPushed, push_folder


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
