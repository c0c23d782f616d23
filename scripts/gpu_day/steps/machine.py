"""The machine, and the versions of what runs on it."""

import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """The machine.

    Attributes:
        gpu: Name of the GPU; None without one.
        gpu_gb: Its memory.
        capability: Its CUDA capability.
        cpus: Processors that this process may use.
        python: Version.
        torch: Version.
        cuda: Version that torch was built for; None for a build without.
        transformers: Version.
        triton: Version; None if it isn't installed.
        pyarrow: Version.
    """

    gpu: str | None
    gpu_gb: float | None
    capability: str | None
    cpus: int
    python: str
    torch: str
    cuda: str | None
    transformers: str
    triton: str | None
    pyarrow: str


def measure(report: Callable[[Row], None]) -> None:
    """Reports one row."""
    gpu = gpu_gb = capability = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, gpu_gb = properties.name, properties.total_memory / 1e9
        capability = f"{properties.major}.{properties.minor}"
    report(
        Row(
            gpu,
            gpu_gb,
            capability,
            len(os.sched_getaffinity(0)),
            platform.python_version(),
            torch.__version__,
            torch.version.cuda,
            metadata.version("transformers"),
            version_of("triton"),
            metadata.version("pyarrow"),
        )
    )


def version_of(package: str) -> str | None:
    """Returns the version of a package; None if it isn't installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
