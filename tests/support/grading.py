"""A math-verify that misbehaves, and the state of the worker processes that import it."""

import os
import signal
from pathlib import Path

import pytest

from search_lib.grading.grader import _Worker

BOMB = r"\max(9^{9^{9^9}}, 1)"
"""An answer without a normal form that math-verify never gets to the end of."""

MISBEHAVING_MATH_VERIFY = """
import os, sys
def noise():
    print("noise")
    sys.stdout.flush()
    os.write(1, b"true\\n")
    assert sys.stdin.read() == "" and os.read(0, 1) == b""
noise()
def LatexExtractionConfig(**options):
    return None
def parse(text, configuration, **options):
    noise()
    return text[len("\\\\boxed{"):-1]
def verify(gold, target, timeout_seconds):
    noise()
    if {gold, target} == {"x+x", "2x"}:
        return True
    if "hang" in target:
        return 9**9**9 > 0  # one call of C code
    if "meet" in target:  # wait for the other worker
        open(target, "w").close()
        while not {"meet1", "meet2"} <= set(os.listdir()):
            pass
        return True
    if "exit" in target:
        os._exit(3)
    if "flood" in target:
        return sys.stdout.write("x" * 200_000) > 0 and sys.stderr.write("x" * 200_000) > 0
    if "raise" in target:
        raise ValueError(target)
    if "allocate" in target:
        return len(bytearray(150 << 20)) > 0
    if "environment" in target:
        return all(os.environ[f"{x}_NUM_THREADS"] == "1" for x in ("OMP", "MKL", "OPENBLAS"))
    return "equal" in target
"""
"""Source of a stand-in for math-verify; an answer names the misdeed."""


def signal_first_busy_worker(monkeypatch: pytest.MonkeyPatch, signal_number: int) -> None:
    """Sends a signal to the first worker that gets a request, before it can reply."""
    send = _Worker.send
    signalled: list[int] = []

    def send_and_signal(worker: _Worker, request: tuple[str, ...], time_limit_s: float) -> bool:
        if signalled:
            return send(worker, request, time_limit_s)
        pid = worker.process.pid
        signalled.append(pid)
        os.kill(pid, signal.SIGSTOP)  # it cannot reply before it gets the signal
        sent = send(worker, request, time_limit_s)
        os.kill(pid, signal_number)
        os.kill(pid, signal.SIGCONT)
        return sent

    monkeypatch.setattr(_Worker, "send", send_and_signal)


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def is_running(pid: int) -> bool:
    try:
        return proc(pid, "stat").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_ticks(pid: int) -> int:
    return int(proc(pid, "stat").rpartition(")")[2].split()[11])
