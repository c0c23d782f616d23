"""The scripts that Slurm runs, with stand-ins for its programs, and the one for many machines."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("NNODES", "NNODES is not set: the number of machines"),
        ("RDZV_ENDPOINT", "RDZV_ENDPOINT is not set: host[:port] of one of the machines"),
        ("arguments", "no arguments for train_classifier.py"),
    ],
)
def test_train_multinode_names_what_is_missing(missing, message):
    environment = {**os.environ, "NNODES": "2", "RDZV_ENDPOINT": "localhost"}
    environment.pop(missing, None)
    arguments = [] if missing == "arguments" else ["--run_name", "run"]
    script = ROOT / "scripts" / "train_multinode.sh"
    result = subprocess.run(
        [script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr == f"train_multinode.sh: error: {message}\n"


@pytest.fixture
def slurm_job(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs train_slurm.sh as Slurm would; returns the exit status and what it called and wrote."""
    programs = {
        "scontrol": """[ "$1" = show ] && printf 'node10\\nnode9\\n' || echo "scontrol $*" """,
        "srun": """echo "srun $*"
                   echo "at $RDZV_ENDPOINT, $NNODES machines, job $RDZV_ID"
                   for name in $SAVED; do mkdir -p "$RUN_DIR/$name"; done
                   exit $STATUS""",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(arguments: list[str], saved: str, status: int) -> tuple[int, str]:
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4012345",
            "SLURM_RESTART_COUNT": "2",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node[9-10]",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "RUN_DIR": str(tmp_path / "runs" / "vm"),
            "SAVED": saved,
            "STATUS": str(status),
        }
        result = subprocess.run(
            ["bash", ROOT / "scripts" / "train_slurm.sh", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    return run


def test_a_slurm_job_is_put_back_while_it_gets_on(slurm_job, tmp_path):
    arguments = ["--output_dir", f"{tmp_path}/runs", "--run_name=vm"]
    # Told to stop: torchrun's status isn't 0, and there is a checkpoint.
    status, output = slurm_job(arguments, "step_7", 1)
    assert status == 1
    assert output.splitlines() == [
        "srun --kill-on-bad-exit=0 --wait=0 scripts/train_multinode.sh " + " ".join(arguments),
        "at node10:22345, 2 machines, job 4012345-2",
        "train_slurm.sh: not finished, back into the queue with step_7",
        "scontrol requeue 4012345",
    ]
    # No new one: it would fail again.
    status, output = slurm_job(arguments, "step_7", 1)
    assert status == 1
    assert output.endswith("failed before a checkpoint was written, exit status 1\n")
    status, output = slurm_job(arguments, "step_9 final", 0)
    assert status == 0
    assert output.endswith("finished, exit status 0\n")
    status, output = slurm_job(arguments[:2], "", 0)
    assert (status, output) == (2, "train_slurm.sh: error: no --run_name\n")


@pytest.fixture
def slurm_data(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a task of data_slurm.sh as Slurm would; returns the exit status and what it wrote."""
    programs = {
        "scontrol": """echo "scontrol $*" """,
        "srun": """echo "srun $*"
                   mkdir -p "$OUTPUT/model"
                   for file in $OWN; do echo $file >>"$OUTPUT/model/.shard-3-of-4.lock"; done
                   echo other >>"$OUTPUT/.shard-2-of-4.lock"
                   exit $STATUS""",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(arguments: list[str], own_files: str, status: int, least: int = 0):
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_ARRAY_JOB_ID": "4012345",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_MIN": str(least),
            "SLURM_ARRAY_TASK_MAX": "3",
            "SLURM_ARRAY_TASK_COUNT": "4",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "OUTPUT": str(tmp_path / "out"),
            "OWN": own_files,
            "STATUS": str(status),
        }
        result = subprocess.run(
            ["bash", ROOT / "scripts" / "data_slurm.sh", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    return run


def test_a_slurm_stage_is_put_back_while_it_gets_on_itself(slurm_data, tmp_path):
    arguments = ["roll_out", f"--output={tmp_path}/out", "--input", "in"]
    python = ROOT / ".venv" / "bin" / "python"
    status, output = slurm_data(arguments, "a b", 143)
    assert status == 143
    assert output.splitlines() == [
        f"srun {python if python.exists() else 'python'} -u -m data_prep.roll_out "
        + " ".join(arguments[1:])
        + " --shard 3/4",
        "data_slurm.sh: not finished, back into the queue with 2 new files",
        "scontrol requeue 4012345_3",
    ]
    # Files of other tasks don't count.
    status, output = slurm_data(arguments, "", 1)
    assert status == 1
    assert output.endswith("data_slurm.sh: failed, 0 new files, exit status 1\n")
    status, output = slurm_data(arguments, "c", 2)
    assert status == 2
    assert output.endswith("data_slurm.sh: failed, 1 new files, exit status 2\n")
    status, output = slurm_data(arguments, "d", 0)
    assert status == 0
    assert output.endswith("data_slurm.sh: finished with 1 new files\n")


def test_a_slurm_stage_is_told_what_is_missing(slurm_data, tmp_path):
    output = ["--output", f"{tmp_path}/out"]
    for arguments, message in (
        (["cuts", *output], "the first argument is clean, roll_in, roll_out or label, not 'cuts'"),
        ([], "the first argument is clean, roll_in, roll_out or label, not ''"),
        (["label"], "no --output"),
        (["label", *output, "--shard", "0/2"], "--shard follows from the array"),
    ):
        assert slurm_data(arguments, "", 0) == (2, f"data_slurm.sh: error: {message}\n")
    status, text = slurm_data(["label", *output], "", 0, least=1)
    assert (status, text) == (
        2,
        "data_slurm.sh: error: the array must be 0-N; what is done already is skipped\n",
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("train_slurm.sh", "not in a Slurm job; start it with sbatch"),
        ("data_slurm.sh", "not a task of a Slurm array; start it with sbatch"),
        ("search_slurm.sh", "not a task of a Slurm array; start it with sbatch"),
    ],
)
def test_the_copy_that_slurm_runs_finds_its_library_where_it_was_submitted(
    script, message, tmp_path
):
    copy = shutil.copy(ROOT / "scripts" / script, tmp_path / "slurm_script")
    elsewhere = f"submit it from the root of the repository, not {tmp_path}"
    for submitted_from, expected in ((ROOT, message), (tmp_path, elsewhere)):
        environment = {**os.environ, "SLURM_SUBMIT_DIR": str(submitted_from)}
        result = subprocess.run(
            ["bash", copy], env=environment, capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (2, f"{script}: error: {expected}\n")


@pytest.fixture
def slurm_search(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a task of search_slurm.sh as Slurm would; returns the exit status and what it wrote."""
    programs = {
        "scontrol": """echo "scontrol $*" """,
        "srun": """echo "srun $*"
                   mkdir -p "$SHARD"
                   for record in $RECORDS; do echo $record >>"$SHARD/r.jsonl"; done
                   exit $STATUS""",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(
        arguments: list[str], records: str, status: int, tasks: str = "0 3 4", num_shards: str = ""
    ) -> tuple[int, str]:
        least, largest, count = tasks.split()
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4012348",
            "SLURM_ARRAY_JOB_ID": "4012345",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_ARRAY_TASK_MIN": least,
            "SLURM_ARRAY_TASK_MAX": largest,
            "SLURM_ARRAY_TASK_COUNT": count,
            "SLURM_SUBMIT_DIR": str(ROOT),
            "NUM_SHARDS": num_shards,
            "SHARD": str(tmp_path / "run" / f"shard-3-of-{num_shards or count}"),
            "RECORDS": records,
            "STATUS": str(status),
        }
        result = subprocess.run(
            ["bash", ROOT / "scripts" / "search_slurm.sh", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout

    return run


def test_a_slurm_search_is_put_back_while_it_gets_on(slurm_search, tmp_path):
    arguments = [f"--output_path={tmp_path}/run/r.jsonl", "--seed", "1"]
    python = ROOT / ".venv" / "bin" / "python"
    command = f"srun {python if python.exists() else 'python'} -u inference_eval.py "
    # Its time was up.
    status, output = slurm_search(arguments, "a b", 143)
    assert status == 143
    assert output.splitlines() == [
        command + " ".join(arguments) + " --shard 3/4",
        "search_slurm.sh: not finished, back into the queue with 2 records",
        "scontrol requeue 4012345_3",
    ]
    # Nothing new: it would fail again. Bad input would, whatever was written.
    status, output = slurm_search(arguments, "", 1)
    assert status == 1
    assert output.endswith("search_slurm.sh: failed, 0 new records, exit status 1\n")
    status, output = slurm_search(arguments, "c", 2)
    assert status == 2
    assert output.endswith("search_slurm.sh: failed, 1 new records, exit status 2\n")
    status, output = slurm_search(arguments, "d", 0)
    assert status == 0
    assert output.endswith("search_slurm.sh: finished, 4 records\n")


def test_a_part_of_a_slurm_array_must_know_the_whole(slurm_search, tmp_path):
    arguments = ["--output_path", f"{tmp_path}/run/r.jsonl"]
    message = "search_slurm.sh: error: the array is not 0-1; say NUM_SHARDS=<of the whole run>\n"
    assert slurm_search(arguments, "", 0, tasks="3 5 2") == (2, message)
    status, output = slurm_search(arguments, "a", 0, tasks="3 5 2", num_shards="8")
    assert status == 0
    assert "--shard 3/8" in output
    assert output.endswith("finished, 1 records\n")
    status, output = slurm_search([*arguments, "--shard", "0/2"], "", 0)
    assert (status, output) == (2, "search_slurm.sh: error: --shard follows from the array\n")
