"""Checkpoints of a run: written in the background, sharded, whole or absent.

`step_N/` holds the weights in Hugging Face form (`from_pretrained` takes the folder as it is),
`trainer_state.json`, and in `trainer/` weights and optimizer state as shards of
`torch.distributed.checkpoint`, which any number of processes can read, in any mode of
`classifier_lib.training.parallel`. `SHA256SUMS` has the checksums of all files.

    python -m classifier_lib.training.checkpoints verify outputs/my_run

compares them with the files of all checkpoints of a run and of its final model; of one checkpoint,
or of an exported model, if that is the folder.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from classifier_lib.training.checkpoint_folders import main

    main()
    raise SystemExit  # it compares checksums, and needs none of what is imported below

import contextlib
import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from classifier_lib.training.checkpoint_folders import (
    TRAINER_STATE,
    CheckpointError,
    find_checkpoints,
)
from classifier_lib.training.parallel import full_weights, model_class, unwrap
from run_lib.checksums import checksum, write_checksums
from run_lib.commands import DISK_ERRORS
from run_lib.files import (
    atomic_folder,
    publish_folder,
    read_json,
    remove_folder,
    removed_on_failure,
    write_files,
)
from run_lib.processes import Processes
from run_lib.text import one_line

SHARDS = "trainer"

# One process without torchrun is as good as any other.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or")


@contextlib.contextmanager
def checkpoint_errors(failure: str) -> Iterator[None]:
    """Turns the errors of reading and writing checkpoints into a `CheckpointError`.

    Args:
        failure: The beginning of the message.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise CheckpointError(f"{failure}: {_describe(error)}") from error


class Checkpointer:
    """Saves checkpoints of a run while it goes on; all processes make the same calls.

    Args:
        run_dir: Folder of the run, on a file system that all processes share.
        processes: The processes of the run.
        max_keep: Checkpoints to keep, at least 1; older ones go when a new one is whole.
        on_published: Called on rank 0 with every checkpoint that is whole, in another thread.
    """

    def __init__(
        self,
        run_dir: Path,
        processes: Processes,
        max_keep: int,
        on_published: Callable[[Path], None] | None = None,
    ):
        self._on_published = on_published
        self._run_dir = run_dir
        self._processes = processes
        self._max_keep = max_keep
        # Python waits for it at exit: a save in flight is completed even if training fails.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._publication: Future[None] | None = None
        self._last_failed = False

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        write_extra: Callable[[Path], None],
        wait: bool = False,
    ) -> Path:
        """Starts to save `step_N/` and returns as soon as all state is copied to the CPU.

        The save before this one is waited for.

        Args:
            model: Model of `parallelize`.
            optimizer: Its optimizer, between `zero_grad` and `backward`. Its state is saved, not
                its settings (learning rate, decay).
            state: All other state, in types of JSON; `state["step"]`, the number of steps done,
                names the folder.
            write_extra: Writes more files into the folder it is given. Called on rank 0, in
                another thread.
            wait: Whether to wait until the checkpoint is published.

        Returns:
            The folder of the checkpoint, which is there once it is published.

        Raises:
            CheckpointError: If the save before this one failed, or this one with `wait`; on all
                processes.
            TypeError: If `state` holds a type that JSON doesn't know.
            ValueError: If `state` holds a number that JSON doesn't know (NaN, infinity).
        """
        self.wait()
        state_text = json.dumps(state, indent=2, allow_nan=False) + "\n"
        folder = self._run_dir / f"step_{state['step']}"
        temporary = folder.with_name(f".{folder.name}.tmp")
        weights = full_weights(model, self._processes)
        shards = self._own_part(_trainer_state(model, optimizer))
        saved = unwrap(model)
        config, kind = copy.deepcopy(saved.config), model_class(saved)

        def fill(checksums: dict[str, str]) -> None:
            assert weights is not None
            write_model(temporary, config, weights, kind)
            write_extra(temporary)
            (temporary / TRAINER_STATE).write_text(state_text, encoding="utf-8")
            check_shards(temporary / SHARDS)
            write_checksums(temporary, checksums)
            publish_folder(temporary, folder)
            if self._on_published:
                self._on_published(folder)
            for old in find_checkpoints(self._run_dir)[: -self._max_keep]:
                remove_folder(old)

        def prepare() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        # Before any process makes a folder of its own in there.
        self._on_main(prepare, folder)
        written = dcp.async_save(
            shards,
            checkpoint_id=temporary / SHARDS,
            process_group=self._processes.checkpoint_group,
            no_dist=self._processes.checkpoint_group is None,
        )
        self._publication = self._executor.submit(
            self._publish, cast(Future, written), fill, folder, temporary
        )
        if wait:
            self.wait()
        return folder

    def wait(self) -> None:
        """Waits until the save in flight, if there is one, is published or has failed.

        Raises:
            CheckpointError: If it failed, on any process; on all of them.
        """
        publication, self._publication = self._publication, None
        if publication is not None:
            publication.result()

    def wait_or_warn(self) -> None:
        """Waits like `wait`, but only warns of a failure that does not follow another one.

        Raises:
            CheckpointError: If the save before this one failed, too.
        """
        try:
            self.wait()
            self._last_failed = False
        except CheckpointError as error:  # once may be an accident
            if self._last_failed:
                raise
            self._last_failed = True
            if self._processes.rank == 0:
                tqdm.write(f"warning: {error}; training goes on")

    def close(self) -> None:
        """Waits until a save in flight has ended, before the run's folder is left to others."""
        self._executor.shutdown()

    def _own_part(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns the state that this process saves: its shards, and its part of the rest.

        Tensors that all processes hold alike are dealt out before they are copied: eight processes
        of one machine would need eight copies in its memory otherwise.
        """
        sizes = {}
        for name, tensor in state["model"].items():
            if not isinstance(tensor, DTensor):
                moments = state["optimizer"].get(name, {}).values()
                sizes[name] = tensor.numel() + sum(moment.numel() for moment in moments)
        loads = [0] * self._processes.world_size
        others = set()
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            rank = loads.index(min(loads))
            loads[rank] += sizes[name]
            if rank != self._processes.rank:
                others.add(name)
        return {
            part: {name: value for name, value in values.items() if name not in others}
            for part, values in state.items()
        }

    def _publish(
        self,
        written: Future,
        fill: Callable[[dict[str, str]], None],
        folder: Path,
        temporary: Path,
    ) -> None:
        """Completes a save when its shards are written; runs in the background."""
        failure = f"saving {folder} failed"
        is_main = self._processes.rank == 0

        def complete() -> None:
            with removed_on_failure(temporary):
                fill(checksums)

        # Rank 0 is through with this when the shards of all processes are on the disk, as it
        # writes the list of them last.
        removed = removed_on_failure(temporary) if is_main else contextlib.nullcontext()
        with checkpoint_errors(failure), removed:
            written.result()
            checksums = self._shard_checksums(temporary)
        self._on_main(complete, folder)

    def _shard_checksums(self, temporary: Path) -> dict[str, str]:
        """Returns the checksums of all shards; each process reads those that it has written.

        Raises:
            OSError: On every process, if one of them can't.
        """
        own: dict[str, str] | str
        try:
            own = {
                f"{SHARDS}/{file.name}": checksum(file)
                for file in (temporary / SHARDS).glob(f"__{self._processes.rank}_*")
            }
        except OSError as error:
            own = f"rank {self._processes.rank}: {_describe(error)}"
        parts: list[Any] = [own]
        if self._processes.checkpoint_group is not None:
            parts = [None] * self._processes.world_size
            dist.all_gather_object(parts, own, group=self._processes.checkpoint_group)
        checksums: dict[str, str] = {}
        for part in parts:
            if isinstance(part, str):
                raise OSError(part)
            checksums |= part
        return checksums

    def _on_main(self, action: Callable[[], None], folder: Path) -> None:
        """Acts on rank 0 for all processes, which wait for it and share its errors."""
        failure: Exception | None = None
        if self._processes.rank == 0:
            try:
                action()
            except Exception as error:
                failure = error
        message = [_describe(failure) if failure else None]
        if self._processes.checkpoint_group is not None:
            try:
                dist.broadcast_object_list(message, src=0, group=self._processes.checkpoint_group)
            except RuntimeError as error:
                failure, message = error, [_describe(error)]
        if message[0] is not None:
            raise CheckpointError(f"saving {folder} failed: {message[0]}") from failure


def check_shards(folder: Path) -> None:
    """Makes sure that the shards of all processes are in a folder.

    Raises:
        OSError: If some are missing, as when other machines have another disk under this path.
    """
    stored = dcp.FileSystemReader(folder).read_metadata().storage_data.values()
    missing = sorted({x.relative_path for x in stored if not (folder / x.relative_path).exists()})
    if missing:
        raise OSError(
            f"{len(missing)} files of other processes are missing, {missing[0]} first; "
            "the folder must be shared by all machines"
        )


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the `state` that `Checkpointer.save` got.

    Raises:
        CheckpointError: If the folder holds no checkpoint.
        InputError: If the file of its state is damaged.
    """
    state = read_json(checkpoint / TRAINER_STATE)
    if state is None:
        raise CheckpointError(f"{checkpoint} can't be resumed: it has no {TRAINER_STATE}")
    return state


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Reads a checkpoint into a model and its optimizer; every process calls this.

    The number of processes and the mode may be others than those that saved it. The settings of the
    optimizer (learning rate, decay) stay as they are.

    Args:
        checkpoint: Folder `step_N`.
        model: Model of `parallelize`.
        optimizer: Its optimizer, before the first step.

    Returns:
        See `read_state`.

    Raises:
        CheckpointError: If the folder holds no checkpoint of this model.
    """
    state = read_state(checkpoint)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    with checkpoint_errors(f"{checkpoint} can't be resumed"):
        dcp.load(
            {"model": model_state, "optimizer": optimizer_state["state"]},
            checkpoint_id=checkpoint / SHARDS,
        )
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)
    return state


def write_model(
    folder: Path,
    config: PretrainedConfig,
    weights: dict[str, torch.Tensor],
    kind: type[PreTrainedModel],
) -> None:
    """Writes weights, configuration and modeling code, as `save_pretrained` of the whole model.

    Args:
        folder: An existing folder.
        config: Configuration of the model.
        weights: See `full_weights`.
        kind: Class of the model.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "sdpa"  # isn't saved, and needs no package
    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        # Stands in for a model whose class and parameters are those of sharding.
        model = kind(config).to(dtype)  # type: ignore[arg-type]
    model.save_pretrained(folder, state_dict=dict(weights))


def write_final(
    folder: Path, model: nn.Module, weights: dict[str, torch.Tensor], files: dict[str, bytes]
) -> None:
    """Writes the final model and the files that go with it, all or nothing.

    Args:
        folder: Where they go.
        model: Model of `parallelize`.
        weights: See `full_weights`.
        files: Their contents by name.

    Raises:
        CheckpointError: If the disk doesn't take them.
    """
    saved = unwrap(model)
    with checkpoint_errors(f"saving {folder} failed"), atomic_folder(folder) as temporary:
        write_model(temporary, saved.config, weights, model_class(saved))
        write_files(temporary, files)
        write_checksums(temporary)


def _trainer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns {"model": {name: tensor}, "optimizer": {name: {key: tensor}}}, not yet copied."""
    is_fresh = not optimizer.state
    model_state, optimizer_state = get_state_dict(model, optimizer)
    tensors = cast(dict[str, dict[str, torch.Tensor]], optimizer_state["state"])
    if is_fresh:
        # All steps so far were skipped: `get_state_dict` has taken one of its own, without effect
        # but for Adam's count of steps.
        for values in tensors.values():
            values["step"].zero_()
    return {"model": model_state, "optimizer": tensors}


def _describe(error: BaseException) -> str:
    """Returns one line that describes an error."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (cause, _) = min(error.failures.items())
        return f"rank {rank}: {_describe(cause)}"
    earlier: BaseException | None = error
    while earlier is not None:  # of a full disk torch only says that a position was unexpected
        if isinstance(earlier, OSError) and earlier.errno in DISK_ERRORS:
            error = earlier
        earlier = earlier.__cause__ or earlier.__context__
    return f"{type(error).__name__}: {one_line(error)}"
