"""Data parallelism: DDP, FSDP2 and hybrid sharding behind one interface.

All of them average gradients over the processes, so a caller that needs a sum multiplies its loss
by the number of processes. The same batch gives the same gradients with each of them and with one
process, but for rounding: on GPUs DDP computes under autocast, with a float32 residual stream, and
the sharded modes in bfloat16 throughout.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from run_lib.processes import Processes

ParallelMode = Literal["ddp", "fsdp", "hsdp"]


def parallelize(model: nn.Module, mode: ParallelMode, processes: Processes) -> nn.Module:
    """Spreads a model over the processes; every process calls this with the same weights.

    The optimizer is built afterwards, as sharding replaces the parameters.

    Args:
        model: A model of transformers on this process's device, or a module with one as its
            `model`.
        mode: "ddp": every process holds all weights. "fsdp": each holds 1 / world_size of weights,
            gradients and optimizer state. "hsdp": sharded within a machine and copied to all
            machines, so that only gradients travel between machines.
        processes: The processes of the run.

    Returns:
        `model` within DistributedDataParallel, or `model` itself, sharded in place. Without
        torchrun, and for "ddp" with one process, it is left as it is.

    Raises:
        ValueError: If "hsdp" finds machines with different numbers of processes.
    """
    device, world_size = processes.device, processes.world_size
    if not dist.is_initialized() or (mode == "ddp" and world_size == 1):
        return model
    if mode == "ddp":
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
    if mode == "fsdp":
        mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    else:
        local_world_size = processes.local_world_size
        if world_size % local_world_size:
            raise ValueError(
                f"hsdp needs as many processes on every machine: {world_size} processes in all "
                f"are not a multiple of the {local_world_size} on the machine of rank "
                f"{processes.rank}"
            )
        mesh = init_device_mesh(
            device.type,
            (world_size // local_world_size, local_world_size),
            mesh_dim_names=("replicate", "shard"),
        )
    policy = MixedPrecisionPolicy()
    if device.type == "cuda" and next(model.parameters()).dtype == torch.float32:
        # Gradients are added up over the processes in full precision.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in unwrap(model).base_model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def unwrap(model: nn.Module) -> PreTrainedModel:
    """Returns the model of transformers in what `parallelize` got or gave (under FSDP sharded)."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return module if isinstance(module, PreTrainedModel) else cast(PreTrainedModel, module.model)


def model_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """Returns the class of a model, under FSDP the one that it had before."""
    kinds = (kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    return cast(type[PreTrainedModel], next(kinds))


@contextlib.contextmanager
def gradient_sync(model: nn.Module, last: bool) -> Iterator[None]:
    """Wraps forward and backward of a micro batch, so that gradients travel no more than needed.

    Under DDP they travel with the last micro batch of a step only. Under FSDP they travel with each
    one, as memory has no room for whole gradients; between the machines of hsdp with the last.

    Args:
        model: Model of `parallelize`.
        last: Whether this is the step's last micro batch.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)
    wait = isinstance(model, DistributedDataParallel) and not last
    with model.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
        yield


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scales the gradients down to a global norm of at most `max_norm`.

    Returns:
        The norm before, over all parameters of all shards; the same on every process.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return float(norm)


@torch.no_grad()
def full_weights(model: nn.Module, processes: Processes) -> dict[str, torch.Tensor] | None:
    """Collects the whole weights on rank 0; every process calls this.

    Returns:
        Copies on the CPU by their names in the model of transformers, without any wrapper's
        prefix, and tied ones once; None on the other ranks.
    """
    weights = {}
    whole = unwrap(model)
    first_names = {name for name, _ in whole.named_parameters()}
    all_names = {name for name, _ in whole.named_parameters(remove_duplicate=False)}
    sharded = cast(dict[str, torch.Tensor], get_model_state_dict(whole))
    for name, tensor in sharded.items():
        if name in all_names - first_names:
            continue
        if isinstance(tensor, DTensor):
            # One tensor after the other: no device has to hold them all.
            tensor = tensor.full_tensor()
        if processes.rank == 0:
            weights[name] = tensor.to("cpu", copy=True)
    return weights if processes.rank == 0 else None
