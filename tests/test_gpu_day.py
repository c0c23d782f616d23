"""scripts/gpu_day.sh: all steps on a CPU, on tiny shapes, with no more packages than it asks for;
and steps that end badly."""

import importlib
import json
import os
import re
import shlex
import subprocess
import zipfile
from importlib.metadata import distribution
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from packaging.requirements import Requirement

from run_lib.commands import InputError, parse_command_line
from scripts.gpu_day import run, table
from scripts.gpu_day.processes import StepFailed, run_step
from scripts.gpu_day.steps import training
from tests.support.documentation import DOCUMENTATION
from tests.support.few_packages import environment_of, python_with, required
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.xdist_group("gpu_day")  # one whole run for all tests

GIVEN = ("torch", "transformers", "pyarrow", "pytest")
REQUIREMENTS = [
    Requirement(line)
    for line in (ROOT / "scripts" / "gpu_day" / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
]


def gpu_day(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "gpu_day.sh", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class Day(NamedTuple):
    """A whole run.

    Attributes:
        document: Its JSON.
        output: What it printed.
    """

    document: dict[str, Any]
    output: str


def as_wheel(name: str, folder: Path) -> None:
    """Packs an installed package of pure Python into a wheel, as far as an import needs it."""
    found = distribution(name)
    with zipfile.ZipFile(folder / f"{name}-{found.version}-py3-none-any.whl", "w") as wheel:
        for file in found.files or ():
            if file.suffix != ".pyc" and ".." not in file.parts:
                wheel.write(str(found.locate_file(file)), str(file))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """All steps, by a Python without any package but those that are given, and the wheels."""
    folder = tmp_path_factory.mktemp("gpu_day")
    python, packages = python_with(GIVEN, folder)
    wheels = folder / "wheels"
    wheels.mkdir()
    for requirement in REQUIREMENTS:
        as_wheel(requirement.name, wheels)
    output = folder / "gpu_day.json"
    done = gpu_day("--wheels", str(wheels), str(output), **environment_of(python, packages))
    assert done.returncode == 0, done.stdout + done.stderr
    return Day(json.loads(output.read_text()), done.stdout)


def test_all_steps_run_without_a_gpu(day):
    statuses = {
        name: (step["status"], step["reason"]) for name, step in day.document["steps"].items()
    }
    expected = dict.fromkeys(run.LIMITS, ("ok", None))
    assert statuses == expected | {"tests": ("skipped", "needs a CUDA device")}


def test_every_row_has_the_columns_of_its_step(day):
    for name, step in day.document["steps"].items():
        fields = importlib.import_module(f"{run.STEPS}.{name}").Row._fields
        assert step["rows"], name
        assert all(tuple(row) == fields for row in step["rows"]), name


def test_the_ways_of_a_step_agree(day):
    steps = day.document["steps"]
    losses = [row["loss"] for row in steps["training"]["rows"]]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    exact, rounded, alone = steps["scorer"]["rows"]
    assert exact["largest_difference"] == 0
    assert 0 < rounded["mean_difference"] < rounded["largest_difference"] < 0.05
    assert alone["tokens"] > 4 * rounded["tokens"]
    assert max(row["gradient_error"] for row in steps["flex"]["rows"]) < 1e-6
    (search,) = steps["search"]["rows"]
    assert search["tokens_generated"] == search["searches"] * search["blocks"] * search["response"]


def test_the_figures_are_printed_as_markdown(day):
    assert day.output.endswith(f"\n{table.as_markdown(day.document)}\n")
    for heading in ("| step | status |", "| layout | attention |", "| dtype | way |"):
        assert heading in day.output


def test_the_limits_leave_a_margin_of_nine_minutes():
    assert sum(run.LIMITS.values()) <= 9 * 60 - 15


def test_wheels_are_pinned_as_the_tests_run_them():
    versions = {requirement.name: str(requirement.specifier) for requirement in REQUIREMENTS}
    assert versions == {
        found.name.replace("_", "-"): f"=={found.version}"
        for found in required(["tyro"])
        if found.name not in ("typing_extensions",)
    }


FINE = "def measure(report):\n    report(Row(1.5))\n"
STEPS = {
    "fine": FINE,
    "not_a_number": "def measure(report):\n    report(Row(float('nan')))\n",
    "fails": FINE + "    raise processes.StepFailed('bad figures')\n",
    "raises": FINE + "    raise KeyError('x')\n",
    "is_skipped": "def measure(report):\n    raise processes.StepSkipped('no GPU')\n",
    "is_killed": FINE + "    os.kill(os.getpid(), signal.SIGKILL)\n",
    "hangs": "def measure(report):\n"
    "    child = subprocess.Popen(['sleep', '1000'])\n"
    "    report(Row(child.pid))\n"
    "    signal.pause()\n",
}
BEGINNING = """\
import os, signal, subprocess
from typing import NamedTuple
from scripts.gpu_day import processes

class Row(NamedTuple):
    figure: float

"""


@pytest.fixture
def made_up_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of steps, in a package of their own."""
    folder = tmp_path / "made_up"
    folder.mkdir()
    for name, measure in STEPS.items():
        (folder / f"{name}.py").write_text(BEGINNING + measure)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "STEPS", "made_up")


def run_alone(name: str, limit: float = 60.0):
    context = get_context("fork")
    rows: list[dict[str, Any]] = []
    outcome = run_step(context, f"made_up.{name}", limit, rows.append)
    return outcome.status, outcome.reason, [row["figure"] for row in rows]


@pytest.mark.parametrize(
    ("name", "status", "reason", "figures"),
    [
        ("fine", "ok", None, [1.5]),
        ("not_a_number", "ok", None, ["nan"]),
        ("fails", "failed", "bad figures", [1.5]),
        ("raises", "failed", "KeyError: 'x'", [1.5]),
        ("is_skipped", "skipped", "no GPU", []),
        ("is_killed", "failed", "its process ended with status -9", [1.5]),
        ("is_absent", "failed", "ModuleNotFoundError: No module named 'made_up.is_absent'", []),
    ],
)
def test_a_step_ends_with_its_reason_and_keeps_its_rows(
    made_up_steps, name, status, reason, figures
):
    assert run_alone(name) == (status, reason, figures)


def test_a_step_that_hangs_ends_with_all_that_it_started(made_up_steps):
    status, reason, (child,) = run_alone("hangs", limit=2.0)
    assert (status, reason) == ("timed out", "not within 2 s")

    def is_gone() -> bool:
        try:
            return "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]
        except FileNotFoundError:
            return True

    wait_for(is_gone, "the end of the step's own child", 10)


def test_a_failed_step_takes_no_other_along(made_up_steps, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "LIMITS", dict.fromkeys(("is_killed", "fails", "fine", "raises"), 60))
    monkeypatch.setattr(run, "process_context", lambda preload: get_context("fork"))
    output = tmp_path / "out.json"
    assert run.main(run.Args(output, ("is_killed", "fine", "raises"))) == 1
    steps = json.loads(output.read_text())["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {
        "is_killed": "failed",
        "fails": "skipped",
        "fine": "ok",
        "raises": "failed",
    }
    assert [len(step["rows"]) for step in steps.values()] == [1, 0, 1, 1]
    table.main(table.Args(output))
    assert "| is_killed | failed |" in capsys.readouterr().out


def test_what_was_measured_stands_before_the_end_of_the_run(made_up_steps, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "LIMITS", {"fine": 60, "raises": 60, "fails": 60})
    output = tmp_path / "out.json"

    def end_here(context, module, limit, on_row):
        if module == "made_up.raises":
            on_row({"figure": 2.5})
            raise KeyboardInterrupt
        return run_step(get_context("fork"), module, limit, on_row)

    monkeypatch.setattr(run, "run_step", end_here)
    with pytest.raises(KeyboardInterrupt):
        run.main(run.Args(output, ("fine", "raises", "fails")))
    steps = json.loads(output.read_text())["steps"]
    assert [step["status"] for step in steps.values()] == ["ok", "running", "not run"]
    rows = [step["rows"] for step in steps.values()]
    assert rows == [[{"figure": 1.5}], [{"figure": 2.5}], []]


def test_out_of_memory_is_a_figure(monkeypatch):
    take_step = training.Bench.step

    def step(bench, way, attention):
        if way == "packed":
            raise torch.OutOfMemoryError
        return take_step(bench, way, attention)

    monkeypatch.setattr(training.Bench, "step", step)
    rows = []
    training.measure(rows.append)
    assert [(row.layout, row.note) for row in rows] == [
        ("padded", ""),
        ("packed", "out of memory"),
        ("shared_prefix", ""),
    ]
    assert rows[1].loss is None
    assert rows[2].loss == pytest.approx(rows[0].loss, rel=1e-5)


def test_ways_that_did_other_steps_are_named_after_the_last_row(monkeypatch):
    monkeypatch.setattr(training, "is_same_step", lambda first, other: first is other)
    rows = []
    with pytest.raises(StepFailed, match=r"than padded, sdpa: packed, sdpa; shared_prefix, sdpa$"):
        training.measure(rows.append)
    assert len(rows) == 3


def test_the_commands_of_the_documentation_parse():
    found = re.findall(r"^scripts/gpu_day\.sh (?:--wheels \S+ )?(.*)$", DOCUMENTATION, re.MULTILINE)
    assert len(found) == 2
    for arguments in found:
        args = parse_command_line(run.Args, run.PROGRAM, None, shlex.split(arguments))
        assert set(args.steps) <= run.LIMITS.keys()


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^--steps has no flux; the steps are machine, tests, "):
        run.main(run.Args(tmp_path / "out.json", ("flux", "flex")))
    (tmp_path / "out.json").write_text("{}")
    with pytest.raises(InputError, match=r"out\.json is there already: its figures would be lost$"):
        run.main(run.Args(tmp_path / "out.json"))
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        table.main(table.Args(tmp_path / "absent.json"))
    (tmp_path / "other.json").write_text('{"steps": 1}')
    with pytest.raises(InputError, match=r"other\.json holds no figures of scripts/gpu_day\.sh"):
        table.main(table.Args(tmp_path / "other.json"))


def test_the_script_names_the_packages_that_are_missing(tmp_path):
    python, packages = python_with(["pytest", "docstring_parser"], tmp_path)
    done = gpu_day("out.json", **environment_of(python, packages))
    assert done.returncode == 2
    assert done.stderr.endswith(
        "python lacks torch transformers pyarrow tyro typeguard; --wheels can "
        "bring pure Python, see docs/performance.md\n"
    )
    done = gpu_day("--wheels", str(tmp_path / "absent"), "out.json")
    assert done.stderr == f"gpu_day.sh: error: --wheels {tmp_path}/absent holds no wheels\n"
