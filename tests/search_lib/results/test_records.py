"""Records: whole or absent, each search once, whatever happened to the file."""

import json
import random
import subprocess
import sys
from dataclasses import asdict

import pytest

from run_lib.commands import InputError
from search_lib.results.cost import SearchCost
from search_lib.results.records import (
    Record,
    RecordedResponse,
    RecordFile,
    parse_record,
    read_records,
)
from search_lib.strategies import Node


def make_record(problem_id, repetition=0):
    return Record(
        problem_id=problem_id,
        repetition=repetition,
        problem="What is π?\u2028",
        reference="3",
        seed=2**62,
        responses=[RecordedResponse("…</think>\\boxed{3}", "3", 0.25, True, 4, 1)],
        tree=[Node(None, 2, 0.5, "length"), Node(0, 2, 0.25, "stop")],
        cost=SearchCost(4, 0.125),
    )


def fill(path, count):
    records = RecordFile(path)
    for index in range(count):
        records.append(make_record(f"p{index}"))
    records.close()


def test_records_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    fill(path, 3)
    assert list(read_records(path)) == [make_record(f"p{index}") for index in range(3)]


def test_records_of_an_earlier_version_are_read():
    fields = asdict(make_record("p")) | {"cost": {"tokens_generated": 4, "seconds": 0.125}}
    assert parse_record(json.dumps(fields).encode()) == make_record("p")


def test_a_search_cannot_be_recorded_twice(tmp_path):
    records = RecordFile(tmp_path / "out.jsonl")
    records.append(make_record("p"))
    with pytest.raises(ValueError, match="already holds"):
        records.append(make_record("p"))


@pytest.mark.parametrize("seed", range(8))
def test_damage_anywhere_costs_only_the_damaged_lines(tmp_path, seed):
    path = tmp_path / "out.jsonl"
    fill(path, 6)
    lines = path.read_bytes().splitlines(keepends=True)
    rng = random.Random(seed)
    torn = lines[5][: rng.randrange(1, len(lines[5]))]
    gap = b"\0" * len(lines[2])
    half = lines[3][: rng.randrange(1, len(lines[3]) - 1)]
    # A gap of zeros, a line cut short so that two run together, a repeated line, a torn end.
    path.write_bytes(lines[0] + lines[1] + gap + b"\n" + half + lines[4] + lines[0] + torn)
    expected = {("p0", 0), ("p1", 0)}
    assert {record.key for record in read_records(path)} == expected

    records = RecordFile(path)
    assert records.recover() == 4
    assert records.finished == expected
    for index in (2, 3, 4, 5):
        records.append(make_record(f"p{index}"))
    records.close()
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert sorted(record.key for record in read_records(path)) == [(f"p{i}", 0) for i in range(6)]
    assert lines[4].strip() in (tmp_path / "out.jsonl.damaged").read_bytes()


def test_a_whole_file_is_left_untouched(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, 2)
    inode = path.stat().st_ino
    records = RecordFile(path)
    assert records.recover() == 0
    assert len(records.finished) == 2
    records.close()
    assert path.stat().st_ino == inode
    assert not (tmp_path / "out.jsonl.damaged").exists()


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    held = RecordFile(path)
    code = (
        "import sys, pathlib, search_lib.results.records as records;"
        "records.RecordFile(pathlib.Path(sys.argv[1]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "another process is writing to" in other.stderr
    held.close()
    RecordFile(path).close()


def test_the_folder_is_released_when_the_work_fails(tmp_path):
    def work():
        with RecordFile(tmp_path / "out.jsonl") as records:
            records.append(make_record("p"))
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        work()
    with RecordFile(tmp_path / "out.jsonl") as records:
        assert records.recover() == 0
        assert records.finished == {("p", 0)}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"--output_path .*out.jsonl cannot be written"):
        RecordFile(tmp_path / "file" / "out.jsonl")


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "1 + 1", "answer": 2}\n')
    records = RecordFile(path)
    with pytest.raises(InputError, match=r"problems.jsonl, line 1: JSON, but no record"):
        records.recover()
    records.close()
    assert path.read_text() == '{"problem": "1 + 1", "answer": 2}\n'
    assert not (tmp_path / "problems.jsonl.damaged").exists()
