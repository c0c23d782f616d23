"""Checksums of a folder: what is damaged, missing and extra."""

import shutil
import subprocess
from pathlib import Path

import pytest

from run_lib.checksums import (
    CHECKSUMS_FILE,
    check_intact,
    files_without_checksum,
    find_faults,
    write_checksums,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trainer").mkdir()
    for name in ("trainer/a b", "weights", "empty"):
        (tmp_path / name).write_bytes(name.encode() * (name != "empty"))
    write_checksums(tmp_path)
    return tmp_path


def test_an_intact_folder_has_no_faults(folder):
    assert find_faults(folder) == {}
    assert files_without_checksum(folder) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_them(folder):
    command = ["sha256sum", "--strict", "-c", CHECKSUMS_FILE]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.count(": OK") == 3


def test_every_fault_is_named(folder):
    (folder / "trainer" / "a b").write_bytes(b"trainer/a c")
    (folder / "weights").unlink()
    (folder / "new").touch()
    assert find_faults(folder) == {
        "trainer/a b": "doesn't match its checksum",
        "weights": "is missing",
    }
    assert files_without_checksum(folder) == ["new"]


def test_the_parts_of_several_processes_are_the_whole(folder):
    for name in ("trainer/a b", "weights", "empty"):
        (folder / name).write_bytes(b"other")
    parts = [find_faults(folder, part=part, num_parts=2) or {} for part in range(2)]
    assert sorted([*parts[0], *parts[1]]) == ["empty", "trainer/a b", "weights"]


def test_only_files_of_the_patterns_are_compared(folder):
    (folder / "weights").write_bytes(b"other")
    check_intact(folder, "trainer/*", "empty")
    with pytest.raises(
        ValueError, match=f"^{folder} is damaged: weights doesn't match its checksum .*remove SHA"
    ):
        check_intact(folder, "weigh*")


def test_a_folder_without_checksums_is_not_compared(folder):
    (folder / CHECKSUMS_FILE).unlink()
    assert find_faults(folder) is None
    check_intact(folder, "*")
    check_intact("someone/a_model_of_the_hub", "*")


@pytest.mark.parametrize("content", ["", "x", "0" * 64 + "  weigh", "0" * 63 + "  weights\n"])
def test_damaged_checksums_are_a_fault(folder, content):
    (folder / CHECKSUMS_FILE).write_text(content)
    assert list(find_faults(folder) or ()) == [CHECKSUMS_FILE]


def test_known_checksums_are_not_computed_again(folder):
    write_checksums(folder, {"weights": "0" * 64})
    assert find_faults(folder) == {"weights": "doesn't match its checksum"}
