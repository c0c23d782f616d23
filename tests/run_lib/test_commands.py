"""Commands read flags, name what is wrong with them, and end, all in one way."""

import dataclasses
import errno
import re
import subprocess
import sys
from typing import Annotated, Literal

import pytest
import tyro

from run_lib.commands import (
    InputError,
    RunStopped,
    at_least,
    check_installed,
    naming,
    parse_command_line,
    parse_shard,
    positive,
    run_command,
)
from tests.support.paths import ROOT

# Errors of flags.


def test_an_error_of_a_library_gets_the_name_of_the_flag():
    with pytest.raises(InputError) as info, naming("--model"):
        raise ValueError("no such\n   file:\tx")
    assert str(info.value) == "--model no such file: x"
    assert isinstance(info.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("value", "what"),
    [(0, "positive"), (-1.5, "positive"), (float("nan"), "positive"), (float("inf"), "finite")],
)
def test_flags_that_must_be_positive(value, what):
    positive(beta=0.1, max_lr=None)
    with pytest.raises(InputError, match=f"--beta must be {what}, got {value}"):
        positive(max_lr=1.0, beta=value)


def test_an_error_that_names_its_flag_passes():
    error = InputError("--other x")
    with pytest.raises(InputError) as info, naming("--model"):
        raise error
    assert info.value is error


@pytest.mark.parametrize("error", [OSError("disk"), RunStopped("no server"), KeyError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as info, naming("--model"):
        raise error
    assert info.value is error


def test_other_errors_may_be_those_of_the_flag():
    with pytest.raises(InputError, match=r"^--output disk$"), naming("--output", OSError):
        raise OSError("disk")


def test_a_block_without_an_error_is_left_alone():
    with naming("--model"):
        value = 1
    assert value == 1


def test_values_that_are_large_enough_pass():
    at_least(1, batch_size=1, max_length=None)
    at_least(0, weight_decay=0.0)


@pytest.mark.parametrize("value", [0, -3, 0.5, float("nan")])
def test_the_first_value_that_is_too_small_is_named(value):
    message = re.escape(f"--max_length must be at least 1, got {value}")
    with pytest.raises(InputError, match=f"^{message}$"):
        at_least(1, batch_size=2, max_length=value, seed=0)


def test_no_value_is_infinite():
    with pytest.raises(InputError, match=r"^--patience must be finite, got inf$"):
        at_least(1, seed=5, patience=float("inf"))


def test_a_shard_is_one_of_so_many():
    assert [parse_shard(text) for text in ("0/1", "0/12", "11/12")] == [(0, 1), (0, 12), (11, 12)]


@pytest.mark.parametrize("text", ["", "1", "1/1", "12/12", "-1/2", "0/0", "1/2/3", "a/b", "٣/٤"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match=f"--shard {text}: expected i/n with i from"):
        parse_shard(text)


def test_a_package_that_is_there_passes():
    check_installed("NumPy", "counting", "pip install numpy")


def test_a_missing_package_is_named_with_how_to_get_it():
    with pytest.raises(InputError, match=r"^serving needs NoSuchPackage: pip install it$"):
        check_installed("NoSuchPackage", "serving", "pip install it")


# Command lines.


@dataclasses.dataclass(frozen=True)
class Engine:
    """Flags of the engine."""

    engine: Literal["hf", "sglang"] = "hf"
    """Generates."""
    gpu_util: Annotated[float, tyro.conf.arg(aliases=["--piref_gpu_util"])] = 0.9
    """Share of the memory."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of a command."""

    model_path: str
    """Folder of the model."""
    max_length: int = 10
    """Most tokens."""
    engine_flags: Engine = Engine()
    is_fast: bool = False
    """Goes faster."""


def parse(*argv: str) -> Flags:
    return parse_command_line(Flags, "program.py", "Does something.", argv)


def test_flags_of_nested_dataclasses_stand_among_the_others():
    flags = parse("--model_path", "m", "--engine", "sglang", "--gpu_util", "0.5", "--is_fast")
    assert flags == Flags("m", 10, Engine("sglang", 0.5), True)


def test_flags_that_are_left_out_have_their_defaults():
    assert parse("--model_path", "m") == Flags("m")


def test_an_alias_is_the_same_flag():
    flags = parse("--model_path", "m", "--piref_gpu_util", "0.25")
    assert flags.engine_flags.gpu_util == 0.25


def test_help_has_the_description_and_underscores(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse("--help")
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for part in ("usage: program.py", "Does something.", "--model_path", "--gpu_util", "Most tok"):
        assert part in text
    assert "--engine_flags" not in text


def test_a_wrong_flag_is_refused_with_status_2(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse("--model_path", "m", "--max_length", "ten")
    assert exit_info.value.code == 2
    assert "--max_length" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Inner:
    """Flags in flags."""

    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    """Flags."""

    inner: Inner
    rate: float = 0.5


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--rate", "inf"], "--rate must be a finite number, got inf"),
        (["--share", "nan"], "--share must be a finite number, got nan"),
    ],
)
def test_numbers_are_finite(flags, fault, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse_command_line(Outer, "program", None, flags)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"program: error: {fault}\n"
    assert parse_command_line(Outer, "program", None, ["--share", "2"]) == Outer(Inner(2.0))


# The end of a command.


@pytest.mark.parametrize("status", [None, 0])
def test_a_command_that_returns_ends_well(status, capsys):
    run_command("program", lambda: status)
    assert capsys.readouterr().err == ""


def test_a_command_may_return_a_status():
    with pytest.raises(SystemExit) as exit_info:
        run_command("program", lambda: 3)
    assert exit_info.value.code == 3


class ServerGone(RunStopped):
    """A server stays away."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("no such\n   file:\tx\n"), 2, "program: error: no such file: x\n"),
        (ServerGone("http://a is\n away"), 1, "program: stopped: http://a is away\n"),
        (
            OSError(errno.ENOSPC, "No space", "out/a"),
            1,
            "program: stopped: [Errno 28] No space: 'out/a'; the same command goes on\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_an_expected_error_is_one_line_and_a_status(error, status, line, capsys):
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        run_command("program", command)
    assert exit_info.value.code == status
    output = capsys.readouterr()
    assert output.err == line
    assert output.out == ""


def test_a_number_of_shards_may_have_few_digits():
    with pytest.raises(InputError, match="expected i/n"):
        parse_shard("0/" + "9" * 5000)


def test_what_a_disk_does_is_one_line_and_a_status(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run_command("program", lambda: int((tmp_path / "absent").read_text()))
    assert exit_info.value.code == 1
    line = f"program: stopped: [Errno 2] No such file or directory: '{tmp_path}/absent'\n"
    assert capsys.readouterr().err == line


def test_a_command_that_does_not_go_on_does_not_say_so(capsys):
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space")

    with pytest.raises(SystemExit):
        run_command("program", command, interrupted="interrupted")
    assert capsys.readouterr().err == "program: stopped: [Errno 28] No space\n"


def assert_ends_unread(code: str) -> None:
    """A program whose output nobody reads ends with one line and a status."""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b"p: stopped: [Errno 32] Broken pipe\n"
        assert process.wait(60) == 1


@pytest.mark.parametrize("more", ["", "x" * 10**5], ids=["short", "long"])
def test_help_that_nobody_reads_is_one_line_and_a_status(more):
    assert_ends_unread(READER.replace("None, []", f"{more!r}, ['--help']"))


READER = """
import sys
from dataclasses import dataclass
from run_lib.commands import parse_command_line, run_command

@dataclass
class Args:
    pass

parse_command_line(Args, "p", None, [])
run_command("p", lambda: print(len(sys.stdin.buffer.read())))
with open(sys.executable) as file:
    sys.exit(file.fileno() < 3)
"""


def test_closed_streams_are_empty_ones():
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, READER]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_nobody_reads_is_one_line_and_a_status():
    code = "from run_lib.commands import run_command; run_command('p', lambda: print('x' * 10**6))"
    assert_ends_unread(code)


def test_other_errors_keep_their_traceback():
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("program", command)


CHILD = """
import sys, threading
from run_lib.commands import InputError, RunStopped, run_command

def command():
    print("computing")
    threading.Thread(target=sys.stdin.read).start()  # a batch that nobody wants any more
    raise {error}

run_command("program", command, at_once={at_once})
"""


def start(error: str, at_once: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD.format(error=error, at_once=at_once)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("RunStopped('no server')", 1, "program: stopped: no server\n"),
        ("KeyboardInterrupt", 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_a_command_may_end_without_its_threads(error, status, line):
    with start(error, at_once=True) as process:
        assert process.wait(60) == status
        assert process.stderr.read() == line
        assert process.stdout.read() == "computing\n"  # flushed


@pytest.mark.parametrize(
    ("error", "status", "at_once"),
    [("KeyboardInterrupt", 130, False), ("InputError('--x 1')", 2, True)],
)
def test_other_ends_wait_for_the_threads(error, status, at_once):
    with start(error, at_once) as process:
        assert process.stderr.readline()
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == status
