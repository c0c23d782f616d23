"""Who may reach the servers that scripts start: the address, and the key that a request must have.

The real servers are asked in tests/search_lib/engines/test_sglang_server.py and in
tests/search_lib/scorers/test_sglang.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.support.http_servers import free_ports
from tests.support.paths import ROOT
from tests.support.sglang_processes import SOON
from tests.support.waiting import wait_for

STAND_IN = """#!{python}
# What the scripts start as Python: it runs their own small programs, and in place of a server one
# that says it is well.
import http.server, json, os, pathlib, signal, sys, threading

arguments = sys.argv[1:]
if arguments[0] in ("-", "-c"):
    os.execv("{python}", ["{python}", *arguments])
port = int(arguments[arguments.index("--port") + 1])
started = {{"arguments": arguments, "key": os.environ.get("API_KEY"), "pid": os.getpid()}}
pathlib.Path("{folder}", f"{{port}}.json").write_text(json.dumps(started))

class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"healthy_workers":2')

def end(*_):
    pathlib.Path("{folder}", f"{{port}}.ending").touch()
    threading.Timer(0.2, os._exit, [0]).start()

signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", port), Well).serve_forever()
"""


def run_script(name: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Runs a script to its end; its exit status, and the last line of what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "API_KEY"}
    result = subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        env={**environment, "LOG_DIR": "/dev/null/logs", **variables},  # goes no further than that
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", ["serve_policy.sh", "serve_value_model.sh"])
@pytest.mark.parametrize("key", [{}, {"API_KEY": ""}])
def test_other_machines_need_a_key(script, key):
    status, said = run_script(script, "m", HOST="0.0.0.0", **key)
    reason = "HOST 0.0.0.0 can be reached from other machines: that needs a key, in API_KEY"
    assert (status, said) == (2, f"{script}: error: {reason}")


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "127.example.org", "localhost.org", "127.1"])
def test_what_only_looks_like_a_loopback_address_needs_a_key(host):
    status, said = run_script("serve_value_model.sh", "m", HOST=host)
    assert (status, said.split(" can be")[0]) == (2, f"serve_value_model.sh: error: HOST {host}")


@pytest.mark.parametrize(
    "variables",
    [
        *({"HOST": host} for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")),
        {"HOST": "0.0.0.0", "API_KEY": "!~"},
    ],
)
def test_an_address_of_this_machine_or_a_key_will_do(variables):
    _, said = run_script("serve_value_model.sh", "m", **variables)
    assert said == "serve_value_model.sh: error: LOG_DIR /dev/null/logs cannot be made"


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused(key):
    _, said = run_script("serve_value_model.sh", "m", API_KEY=key)
    expected = "API_KEY must be visible ASCII characters without blanks"
    assert said == f"serve_value_model.sh: error: {expected}"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--host=0.0.0.0", "the address is HOST, and no argument"),
        ("--hos", "the address is HOST, and no argument"),
        ("--api-key=k", "the key is API_KEY, and no argument: every user could list it"),
        ("--ap", "the key is API_KEY, and no argument: every user could list it"),
        ("--admin-api-key=k", "the key is API_KEY, and no argument: every user could list it"),
    ],
)
def test_no_argument_goes_around_the_address(argument, message, tmp_path):
    status, said = run_script("serve_value_model.sh", "m", argument, LOG_DIR=str(tmp_path))
    assert (status, said) == (2, f"serve_value_model.sh: error: {message}")


def start_stand_ins(tmp_path: Path, *arguments: str) -> SimpleNamespace:
    """What serve_value_model.sh starts for other machines, of stand-ins, and what it says.

    It is told twice to end; `alive` are the processes that outlive it.
    """
    shutil.copytree(ROOT / "scripts" / "lib", tmp_path / "scripts" / "lib")
    script = shutil.copy(ROOT / "scripts" / "serve_value_model.sh", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN.format(python=sys.executable, folder=tmp_path))
    hostname = tmp_path / "hostname"
    hostname.write_text("#!/bin/sh\necho node7.cluster\n")
    for program in (python, hostname):
        program.chmod(0o755)
    port = free_ports(4)
    variables = {"HOST": "0.0.0.0", "PORT": str(port), "NUM_SERVERS": "2", "API_KEY": "s3cret"}
    variables |= {"LOG_DIR": str(tmp_path / "logs"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    variables |= {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [script, "model", *arguments], env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as process:
        said = process.stdout.readline()
        process.terminate()
        ending = tmp_path / f"{port}.ending"
        wait_for(ending.exists, "the router told to end", SOON)
        process.terminate()
    names = {"router": 0, "server_0": 1, "server_1": 2}
    found = {
        name: json.loads((tmp_path / f"{port + n}.json").read_text()) for name, n in names.items()
    }
    alive = [name for name, process in found.items() if psutil.pid_exists(process["pid"])]
    return SimpleNamespace(port=port, said=said, alive=alive, status=process.returncode, **found)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return start_stand_ins(tmp_path_factory.mktemp("started"))


def test_for_other_machines_there_is_one_address_and_a_key(started):
    assert started.said == f"ready: 2 server(s); --scorer_url http://node7.cluster:{started.port}\n"
    for process, host in (
        (started.router, "0.0.0.0"),
        (started.server_0, "127.0.0.1"),
        (started.server_1, "127.0.0.1"),
    ):
        given = process["arguments"]
        assert given[0].endswith("scripts/lib/with_key.py")
        assert given[given.index("--host") + 1] == host
        assert process["key"] == "s3cret"
        assert "s3cret" not in " ".join(given)
    given = started.router["arguments"]
    assert given[given.index("--prometheus-host") + 1] == "127.0.0.1"


def test_each_server_has_a_port_for_its_processes_that_no_program_is_given_by_chance(started):
    ports = [
        int(server["arguments"][server["arguments"].index("--nccl-port") + 1])
        for server in (started.server_0, started.server_1)
    ]
    assert len({*ports, *range(started.port, started.port + 4)}) == 6
    assert max(ports) < 32_768
    assert "--nccl-port" not in started.router["arguments"]


@pytest.mark.parametrize("argument", ["--dp-size=2", "--data-parallel-size=2", "--da=2"])
def test_a_server_of_several_schedulers_chooses_their_ports(argument, tmp_path):
    given = start_stand_ins(tmp_path, argument).server_0["arguments"]
    assert argument in given
    assert "--nccl-port" not in given


def test_stopped_twice_the_script_still_ends_what_it_started(started):
    assert (started.status, started.alive) == (143, [])


def test_a_module_gets_the_key_that_its_command_line_lacks(tmp_path):
    (tmp_path / "shows.py").write_text(
        "import logging, sys\n"
        "logging.warning('%s %d', sys.argv[1:], 7)\n"
        "logging.warning(f'{sys.argv[2:]}')\n"
        "logging.warning('key %s, %s', sys.argv[-1], 'more')\n"
        "print(sys.argv[1:])\n"
        "print(open('/proc/self/cmdline').read())\n"
    )
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "lib" / "with_key.py", "shows", "--port", "1"],
        env={**os.environ, "API_KEY": "-k\\ey'"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    arguments, command = result.stdout.splitlines()
    assert arguments == str(["--port", "1", "--api-key=-k\\ey'"])
    assert command.endswith("shows\0--port\x001\0")
    assert result.stderr.count("--api-key=***") == 3
    assert "ey'" not in result.stderr
