"""Lines are whole, or cut off."""

import pytest

from run_lib.lines import append_lines, cut_torn_line
from tests.support.full_disk import no_file_beyond

PART = 2**16
"""Bytes that are read at a time."""


def test_lines_are_appended(tmp_path):
    path = tmp_path / "lines"
    append_lines(path, [b"a\n", b"b\n"])
    append_lines(path, [])
    append_lines(path, [b"c\n"])
    assert path.read_bytes() == b"a\nb\nc\n"


@pytest.mark.parametrize("whole", [0, 1, 2, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 5])
@pytest.mark.parametrize("torn", [0, 1, PART - 1, PART, PART + 1, 2 * PART])
def test_the_torn_line_is_cut_off_wherever_it_begins(tmp_path, whole, torn):
    content = b"x" * (whole - 1) + b"\n" * (whole > 0) + b"y" * torn
    path = tmp_path / "lines"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


def test_all_whole_lines_stay(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"a\n\n\nb")
    cut_torn_line(path)
    assert path.read_bytes() == b"a\n\n\n"


def test_an_absent_file_stays_absent(tmp_path):
    cut_torn_line(tmp_path / "lines")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", [0, 1, 5])
def test_lines_that_the_disk_does_not_take_leave_nothing(tmp_path, room):
    path = tmp_path / "lines"
    append_lines(path, [b"a\n"])
    with no_file_beyond(2 + room), pytest.raises(OSError, match=f"too large: '{path}'"):
        append_lines(path, [b"b\n", b"c" * 9 + b"\n"])
    assert path.read_bytes() == b"a\n"
    append_lines(path, [b"d\n"])
    assert path.read_bytes() == b"a\nd\n"
