"""The real SGLang in processes of its own: on a CPU, with stand-ins for what it only imports."""

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.paths import ROOT

STAND_INS = Path(__file__).parent / "sglang_stand_ins"
API_KEY = "s3cret'\\key"
"""Of servers that ask for one, which a program may write in more than one way."""
SOON = 120.0
"""Seconds to wait for what takes one when the machine is idle."""


def sglang_environment(**variables: str) -> dict[str, str]:
    """The environment in which SGLang runs on a CPU, also in a virtual one of CUDA."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(STAND_INS), str(ROOT)]),
        "CUDA_VISIBLE_DEVICES": "",
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "1",
        # What it compiles takes longer to compile than to run.
        "TORCHDYNAMO_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
        **variables,
    }


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def status_with_key(url: str, key: str | None, payload: object = None) -> int:
    """The status of a reply to a request with a key, or without one; a POST with a payload."""
    headers = {"Content-Type": "application/json"}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    data = None if payload is None else json.dumps(payload).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SOON) as r:
            return r.status
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def no_survivors(pid: int) -> Iterator[None]:
    """What a process has started ends with the block; what does not is killed, and an error."""
    started = descendants(pid)
    try:
        yield
    finally:
        _, alive = psutil.wait_procs(started, timeout=20)
        for process in alive:
            process.kill()
    assert started
    assert not alive
