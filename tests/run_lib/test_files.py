"""Files are complete or absent, and locked ones have one writer."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from run_lib.commands import InputError
from run_lib.files import (
    TEMPORARY_FILES,
    atomic_file,
    atomic_folder,
    lock_file,
    read_json,
    replace_file,
    try_lock,
    write_files,
    write_json,
)
from tests.support.full_disk import no_file_beyond
from tests.support.paths import ROOT

# Whole files.


def test_values_that_json_does_not_know_leave_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"mean": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"mean": float("nan")})
    assert (tmp_path / "x.json").read_text() == '{\n  "mean": 1\n}\n'


def test_a_folder_appears_only_when_its_block_succeeds_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("first")
        assert not target.exists()

    def fail_half_way():
        with atomic_folder(target) as folder:
            (folder / "b").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]
    with atomic_folder(target) as folder:
        (folder / "c").write_text("second")
    assert [path.name for path in target.iterdir()] == ["c"]


def test_a_folder_takes_the_place_of_no_file(tmp_path):
    (tmp_path / "device").write_text("old")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "device"):
        pass
    assert (tmp_path / "device").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["device"]


def test_a_folder_that_replaces_nothing_takes_an_empty_place_only(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old").write_text("old")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "full", False):
        pass
    assert (tmp_path / "full" / "old").read_text() == "old"
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", replaces=False) as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "empty" / "new").read_text() == "new"


def test_of_two_that_want_a_free_place_one_gets_it_whole(tmp_path):
    def fill_both():
        with atomic_folder(tmp_path / "out", replaces=False) as late:
            (late / "late").touch()
            with atomic_folder(tmp_path / "out", replaces=False) as early:
                (early / "early").touch()
            assert (late / "late").exists()

    with pytest.raises(OSError, match="not empty"):
        fill_both()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "early"]


def test_a_full_disk_is_an_error_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"first")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        replace_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_only_when_its_block_succeeds(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()

    def fail_half_way():
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_keeps_its_old_content(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"first")
    with pytest.raises(TypeError):
        replace_file(path, "no bytes")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_replacement_leaves_a_file_that_can_be_found(tmp_path):
    child = """
import os, sys
from pathlib import Path
from run_lib.files import replace_file

Path.rename = lambda *_: os._exit(9)
replace_file(Path(sys.argv[1]), b"half")
"""
    result = subprocess.run(
        [sys.executable, "-c", child, str(tmp_path / "file")], cwd=ROOT, check=False
    )
    assert result.returncode == 9
    assert not (tmp_path / "file").exists()
    assert len(list(tmp_path.glob(TEMPORARY_FILES))) == 1


def test_written_files_are_those_that_were_read(tmp_path):
    files = {"a.json": b"{}\r\n", "b.model": bytes(range(256))}
    write_files(tmp_path, files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


# JSON.


def test_an_object_is_read_as_it_was_written(tmp_path):
    content = {"a": [1, None, "é"], "b": {"c": 0.1}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content


def test_an_absent_file_is_none(tmp_path):
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"[1]", b'"text"', b"7"])
def test_anything_but_an_object_is_damaged(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path} is damaged: "):
        read_json(path)


# Locks.


def test_a_lock_is_held_once(tmp_path):
    path = tmp_path / "lock"
    with lock_file(path, "busy"):
        assert try_lock(path) is None
        with pytest.raises(InputError, match=r"^another process writes here$"):
            lock_file(path, "another process writes here")


def test_a_lock_is_released_when_it_is_closed(tmp_path):
    path = tmp_path / "lock"
    lock_file(path, "busy").close()
    lock = try_lock(path)
    assert lock is not None
    lock.close()


def test_a_locked_file_keeps_its_content(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"a": 1}))
    with lock_file(path, "busy"):
        assert read_json(path) == {"a": 1}


def fail_to_lock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys, number):
    fail_to_lock(monkeypatch, number)
    with lock_file(tmp_path / "lock", "busy"):
        pass
    assert f"warning: no lock on {tmp_path / 'lock'}" in capsys.readouterr().err


def test_other_errors_of_locking_are_raised(tmp_path, monkeypatch):
    fail_to_lock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        try_lock(tmp_path / "lock")


@pytest.mark.parametrize("write", [write_json, lambda path, content: fill(path, content)])
def test_a_file_that_the_disk_does_not_take_is_named_and_stays_as_it_was(tmp_path, write):
    path = tmp_path / "settings.json"
    path.write_text("{}")
    with no_file_beyond(5), pytest.raises(OSError, match=f"too large: '{path}'"):
        write(path, {"key": "a long value"})
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]


def fill(path, content):
    with atomic_file(path) as file:
        file.write(str(content).encode())
