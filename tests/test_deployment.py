"""The container file and the systemd unit, as far as neither an image nor a manager is needed."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from run_lib.commands import parse_command_line
from search_lib.asking.flags import TOY_MODELS
from search_lib.serve.args import PROGRAM, ServeFlags
from tests.support.documentation import PAGES
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNIT = ROOT / "docs" / "systemd" / "vgs-serve.service"


def instructions() -> list[tuple[str, str]]:
    """Names and arguments of what Containerfile says, in its order."""
    text = (ROOT / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def of(name: str) -> list[str]:
    return [arguments for kind, arguments in instructions() if kind == name]


def in_context(name: str) -> bool:
    """Whether an entry of the repository's root is sent to what builds the image."""
    patterns = (ROOT / ".dockerignore").read_text().split("\n")
    verdict = True
    for pattern in patterns:
        if pattern and not pattern.startswith(("#", "**/")):
            wanted = pattern.startswith("!")
            if fnmatch.fnmatch(name, pattern.removeprefix("!")):
                verdict = wanted
    return verdict


def test_every_source_of_the_image_is_in_its_context():
    copied = [arguments.split()[:-1] for arguments in of("COPY")]
    sources = [source for words in copied if not words[0].startswith("--") for source in words]
    assert sources == [".", "constraints.txt", "pyproject.toml"]
    setuptools = PROJECT["tool"]["setuptools"]
    needed = [*sources[1:], PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    needed += [f"{module}.py" for module in setuptools["py-modules"]]
    needed += [name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]]
    for name in needed:
        assert (ROOT / name).exists(), name
        assert in_context(name), name
    for name in ("outputs", ".git", ".venv", "data", "key", "serve.env", "tests"):
        assert not in_context(name), name


def test_the_python_of_the_image_is_one_of_the_project():
    (version,) = re.findall(r"PYTHON=(\S+)", of("ARG")[0])
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)
    assert of("FROM") == ["python:${PYTHON}-slim AS wheel", "python:${PYTHON}-slim"]


def test_the_image_has_the_dependencies_and_those_of_the_server_at_our_versions(tmp_path):
    """The RUN lines, with a stand-in for pip."""
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@"\n')
    pip.chmod(0o755)
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    said = [
        subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_INDEX": "index"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for line in of("RUN")
        if line.startswith(("pip install", "python"))
    ]
    assert said[:2] == [
        "install --index-url index --no-deps --constraint constraints.txt torch",
        "install --constraint constraints.txt --requirement requirements.txt",
    ]
    found = [
        Requirement(line)
        for line in (tmp_path / "requirements.txt").read_text().split("\n")
        if line
    ]
    extras = PROJECT["project"]["optional-dependencies"]
    expected = [*PROJECT["project"]["dependencies"], *extras["api"]]
    assert found == [Requirement(line) for line in expected]


def test_the_server_of_the_image_is_no_roots_and_is_asked_whether_it_is_well():
    last = dict(instructions())
    assert last["USER"] == "vgs"
    command = json.loads(last["ENTRYPOINT"])
    assert command == ["python", "-m", "search_lib.serve", "--host", "0.0.0.0"]
    probe = json.loads(last["HEALTHCHECK"].split("CMD", 1)[1])
    assert probe[:2] == ["python", "-c"]
    compile(probe[2], "HEALTHCHECK", "exec")
    assert f":{last['EXPOSE']}/health" in probe[2]


def served(command: str) -> ServeFlags:
    """The flags of a command that starts the server."""
    arguments = shlex.split(command.replace("\\\n", " "))
    return parse_command_line(ServeFlags, PROGRAM, None, arguments)


def test_the_models_that_the_image_is_shown_with_lie_where_it_looks_for_them():
    places = re.findall(r"outputs/quickstart:(\S+):ro", (ROOT / "Containerfile").read_text())
    assert places == [f"{dict(instructions())['WORKDIR']}/{TOY_MODELS}"]
    assert re.findall(r"outputs/quickstart:(\S+):ro", PAGES["serving.md"]) == places


def test_the_unit_starts_the_server_for_this_machine_alone():
    (started,) = re.findall(r"ExecStart=\S+ -m search_lib.serve (.*\\\n.*)", UNIT.read_text())
    flags = served(started)
    flags.check()
    assert flags.is_local


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_the_unit_is_one_of_systemd(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/vgs/bin/python", "/bin/sh"))
    result = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_keeps_its_key_in_a_file_of_its_own():
    lines = UNIT.read_text().splitlines()
    assert "EnvironmentFile=/etc/vgs/serve.env" in lines
    assert not [line for line in lines if "KEY" in line and not line.startswith("#")]
    assert {"DynamicUser=yes", "NoNewPrivileges=yes", "Restart=on-failure"} <= set(lines)
