"""Parts of the training loop: processes, optimizer, schedule, one step, and checkpoints.

Hyperparameters are those of VGS appendix E. A checkpoint is a folder that `from_pretrained` loads,
with the trainer's state beside the weights; it is complete or absent.
"""

import contextlib
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from classifier_lib.atomic_files import atomic_folder
from classifier_lib.data import Batch, DataError, GroupedRollouts
from classifier_lib.losses import TrainingLoss
from classifier_lib.modeling import Qwen2ForClassifier

ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-6
GRADIENT_CLIP = 5.0
FINAL_LR_RATIO = 0.1

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The others wait while rank 0 checks the data or writes a checkpoint: minutes on a slow disk."""

TRAINER_STATE = "trainer_state.pt"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 writes files and messages.
        world_size: Number of processes.
        device: Device of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of a tensor over all processes."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values


@contextlib.contextmanager
def distributed() -> Iterator[Processes]:
    """Joins the processes that torchrun started (gloo on CPUs, nccl on GPUs), or runs alone.

    Yields:
        This process among them.

    Raises:
        ValueError: If a machine has fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} here; "
                "lower --nproc_per_node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Processes(0, 1, device)
        return
    is_cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if is_cuda else None,
    )
    yield Processes(dist.get_rank(), dist.get_world_size(), device)
    # Not after an error: the others may wait in a collective, and leaving is what ends them.
    dist.destroy_process_group()


def open_rollouts(
    source: str, num_responses: int, vocab_size: int, processes: Processes
) -> GroupedRollouts:
    """Opens a data set on every process; rank 0 checks the token ids for all of them.

    Raises:
        DataError: See `GroupedRollouts`. What rank 0 finds is raised on every process, so that none
            is left waiting for it.
    """
    if processes.world_size == 1:
        return GroupedRollouts(source, num_responses, vocab_size)
    message: list[str | None] = [None]
    if processes.rank == 0:
        try:
            GroupedRollouts(source, num_responses, vocab_size)
        except DataError as error:
            message = [str(error)]
    dist.broadcast_object_list(message, src=0, device=processes.device)
    if message[0] is not None:
        raise DataError(message[0])
    return GroupedRollouts(source, num_responses)


def exit_with_error(program: str, message: str) -> NoReturn:
    """Ends a command that was given something it can't use: one line, exit code 2."""
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def build_optimizer(model: nn.Module, max_lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Returns AdamW; tensors of fewer than two dimensions (norms, biases) have no decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(groups, lr=max_lr, betas=ADAM_BETAS, eps=ADAM_EPS, fused=fused)


def default_warmup_steps(num_steps: int) -> int:
    """Returns the paper's max(5 % of the steps, 100), but at most half of a short run."""
    return min(max(math.ceil(0.05 * num_steps), 100), num_steps // 2)


def learning_rate(step: int, num_steps: int, warmup_steps: int, max_lr: float) -> float:
    """Returns the learning rate of a step: linear warm-up, then cosine to 0.1 of the maximum.

    Args:
        step: Step, counted from 0. Step `warmup_steps` is the first at `max_lr` after the ramp.
        num_steps: Steps of the run.
        warmup_steps: Steps of the ramp, fewer than `num_steps`.
        max_lr: Largest learning rate.
    """
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(num_steps - 1 - warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return max_lr * (FINAL_LR_RATIO + (1 - FINAL_LR_RATIO) * cosine)


@dataclass(frozen=True)
class StepResult:
    """What one step did, over the whole global batch.

    Attributes:
        loss: Mean loss.
        grad_norm: Norm of the gradient before clipping.
        num_tokens: Real tokens, padding left out.
        num_truncated: Samples cut to the maximum length.
        skipped: Whether loss or gradient wasn't finite, so that no weight was changed.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    num_truncated: int
    skipped: bool


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: TrainingLoss,
    batches: Sequence[Batch],
    processes: Processes,
    seed: int,
    step: int,
    with_mask: bool,
) -> StepResult:
    """Takes one optimizer step on this process's micro batches of the global batch.

    The loss is the mean over the terms of the global batch however it is cut up: each micro batch
    weighs as much as it has terms. Dropout is drawn from (seed, step, micro batch of the global
    batch), so it needs no saved state and doesn't depend on the number of processes.

    Args:
        model: `Qwen2ForClassifier`, in DDP when there are several processes.
        optimizer: Its optimizer, with the learning rate of this step.
        loss: The loss that `model` computes.
        batches: This process's micro batches; every process has as many.
        processes: The processes of the run.
        seed: Seed of the run.
        step: This step, from 0.
        with_mask: See `Batch.model_inputs`.

    Returns:
        The result, the same on every process.
    """
    terms = [int(loss.count_terms(batch.labels, batch.loss_mask)) for batch in batches]
    tokens = sum(batch.num_tokens for batch in batches)
    truncated = sum(batch.num_truncated for batch in batches)
    device = processes.device
    counts = torch.tensor([sum(terms), tokens, truncated], dtype=torch.float64, device=device)
    total_terms, total_tokens, total_truncated = map(int, processes.sum(counts).tolist())

    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    for i, (batch, count) in enumerate(zip(batches, terms, strict=True)):
        micro_batch = processes.rank * len(batches) + i
        torch.manual_seed(_derive_seed(seed, step, micro_batch))
        # Gradients travel once, with the last micro batch.
        wait = isinstance(model, nn.parallel.DistributedDataParallel) and i < len(batches) - 1
        # DDP averages over processes where the loss needs a sum: hence the factor world_size.
        weight = count * processes.world_size / max(total_terms, 1)
        with model.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                micro_loss = model(**batch.model_inputs(device, with_mask)).loss
            (micro_loss * weight).backward()
        loss_sum += micro_loss.detach() * count
    mean_loss = float(processes.sum(loss_sum)) / max(total_terms, 1)
    # Gradients are equal on all processes by now, so all of them take the same branch below.
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP))
    finite = math.isfinite(mean_loss) and math.isfinite(grad_norm)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(mean_loss, grad_norm, total_tokens, total_truncated, not finite)


def _derive_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def read_tokenizer(model_path: str | Path) -> dict[str, bytes]:
    """Returns the tokenizer files of a model folder or Hub repository by name; {} if it has none.

    They are copied as they are: loading and saving them again may change a tokenizer.
    """
    folder = Path(model_path)
    if not folder.is_dir():
        patterns = list(TOKENIZER_FILES)
        folder = Path(huggingface_hub.snapshot_download(str(model_path), allow_patterns=patterns))
    files = [folder / name for name in TOKENIZER_FILES]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def write_model(folder: Path, model: Qwen2ForClassifier, tokenizer: dict[str, bytes]) -> None:
    """Writes weights, configuration, modeling code and tokenizer files into a folder."""
    model.save_pretrained(folder)
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)


def _numbered_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Returns (step, folder) of the complete checkpoints, oldest first."""
    found = []
    for path in run_dir.glob("step_*"):
        match = re.fullmatch(r"step_(\d+)", path.name)
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Returns the newest complete checkpoint of a run, None if there is none."""
    checkpoints = _numbered_checkpoints(run_dir)
    return checkpoints[-1][1] if checkpoints else None


def save_checkpoint(
    run_dir: Path,
    model: Qwen2ForClassifier,
    tokenizer: dict[str, bytes],
    state: dict[str, Any],
    max_keep: int,
) -> Path:
    """Writes `step_N/` and then removes the oldest checkpoints beyond `max_keep`.

    Args:
        run_dir: Folder of the run.
        model: The model, without DDP around it.
        tokenizer: Files to put beside the weights, see `read_tokenizer`.
        state: All state of the trainer besides the weights: `state["step"]`, the number of steps
            done, names the folder; tensors and plain containers only.
        max_keep: Checkpoints to keep, at least 1; older ones go when this one is whole.

    Returns:
        The folder.
    """
    folder = run_dir / f"step_{state['step']}"
    with atomic_folder(folder) as temporary:
        write_model(temporary, model, tokenizer)
        torch.save(state, temporary / TRAINER_STATE)
    for _, old in _numbered_checkpoints(run_dir)[:-max_keep]:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        doomed = old.with_name(f".{old.name}.tmp")
        old.rename(doomed)
        shutil.rmtree(doomed)
    return folder


def load_trainer_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the state that `save_checkpoint` got, on the CPU."""
    return torch.load(checkpoint / TRAINER_STATE, map_location="cpu", weights_only=True)


def remove_leftovers(run_dir: Path) -> None:
    """Removes the temporary folders and files of a run that was killed while writing."""
    for path in run_dir.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def differing_flags(
    saved: dict[str, Any], current: dict[str, Any], may_change: frozenset[str]
) -> list[str]:
    """Returns one description for each flag that differs from the saved configuration.

    Args:
        saved: Configuration that the run was started with.
        current: Configuration asked for now.
        may_change: Flags that don't influence the trained weights beyond rounding.
    """
    return [
        f"--{name} {current.get(name)} (was {saved.get(name)})"
        for name in sorted(saved.keys() | current.keys())
        if name not in may_change and saved.get(name) != current.get(name)
    ]


def push_folder(folder: Path, repo_id: str) -> str:
    """Uploads a model folder to the Hugging Face Hub, creating the repository if needed.

    Returns:
        Address of the repository.
    """
    api = huggingface_hub.HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=folder)
    return str(url)
