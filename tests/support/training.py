"""Short training runs, and what they wrote."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train_classifier

SCRIPT = str(Path(train_classifier.__file__))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command_line(policy: Path, data: Path, output_dir: Path, **changes: object) -> list[str]:
    """Flags of a short run, with some of them changed (None leaves a flag out)."""
    values: dict[str, object] = {
        "data_path": data,
        "data_num_response": 4,
        "model_path": policy,
        "output_dir": output_dir,
        "run_name": "run",
        "num_steps": 4,
        "total_batch_size": 8,
        "micro_batch_size": 4,
        "max_lr": 1e-3,
        "max_length": 64,
        "max_keep_ckpts": 2,
        **changes,
    }
    line = []
    for name, value in values.items():
        if value is True:
            line.append(f"--{name}")
        elif value is not None:
            line += [f"--{name}", str(value)]
    return line


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "final" / "model.safetensors")


def step_weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / f"step_{step}" / "model.safetensors")


def read_metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def read_evaluation(run_dir: Path) -> dict:
    return json.loads((run_dir / "evaluation.json").read_text())


def losses(run_dir: Path) -> dict[int, float]:
    return {x["step"]: x["train/loss"] for x in read_metrics(run_dir) if "train/loss" in x}


def check_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def check_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=1e-4, msg=name)


class Stop(Exception):
    """Ends a run as a fault of the machine would."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Lets the run fail after so many steps."""
    original, done = train_classifier.train_step, 0

    def step(*args: Any) -> Any:
        nonlocal done
        if done == steps:
            raise Stop
        done += 1
        return original(*args)

    monkeypatch.setattr(train_classifier, "train_step", step)
