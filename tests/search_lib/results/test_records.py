"""Records: whole or absent, each search once, whatever happened to the file."""

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from run_lib.commands import InputError
from search_lib.confidence import Confidence
from search_lib.results.cost import SearchCost
from search_lib.results.record_log import NotARecord
from search_lib.results.records import (
    Record,
    RecordedResponse,
    RecordFile,
    parse_record,
    read_records,
)
from search_lib.strategies import Node
from tests.support.full_disk import no_file_beyond


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


def test_the_confidence_of_a_response_comes_back():
    (response,) = make_record("p").responses
    confidence = Confidence(1.5, 1.0, 1.25, 2.0, 12.5)
    record = replace(make_record("p"), responses=[replace(response, confidence=confidence)])
    assert parse_record(json.dumps(asdict(record)).encode()) == record


def test_records_of_an_earlier_version_are_read():
    fields = asdict(make_record("p")) | {"cost": {"tokens_generated": 4, "seconds": 0.125}}
    del fields["responses"][0]["confidence"]
    assert parse_record(json.dumps(fields).encode()) == make_record("p")


def changed(path, value):
    """The record of p0 with one of its values replaced, or removed (...), as its line."""
    record = asdict(make_record("p0"))
    *outer, name = path
    place = record
    for step in outer:
        place = place[step]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return json.dumps(record).encode() + b"\n"


NO_RECORDS = [
    (changed(["responses", 0, "value"], float("nan")), "responses[0].value is nan"),
    (changed(["tree", 1, "value"], float("inf")), "tree[1].value is inf"),
    (changed(["cost", "seconds"], None), "cost.seconds is a value of another type: None"),
    (changed(["cost"], [1]), "cost is not an object"),
    (changed(["responses"], {"a": 1}), "responses is a value of another type: {'a': 1}"),
    (changed(["responses", 0], [[[]]]), "responses[0] is not an object"),
    (changed(["responses", 0, "text"], {"a": []}), "responses[0].text is a value of another type"),
    (changed(["responses", 0, "finished"], 1), "responses[0].finished is a value of another type"),
    (changed(["responses", 0, "confidence"], {"mean": 1.0}), "responses[0].confidence.lowest is m"),
    (changed(["responses", 0, "confidence"], [1.0]), "responses[0].confidence is a value of anoth"),
    (changed(["repetition"], True), "repetition is a value of another type: True"),
    (changed(["problem_id"], 7), "problem_id is a value of another type: 7"),
    (changed(["a\n\x1b[31mb"], 1), r"a \x1b[31mb is no key of a record"),
    (changed(["seed"], ...), "seed is missing"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "nested too deep"),
    (b'{"a": "' + b"x" * 1_000_000 + b'"}\n', "a is no key of a record"),
]


@pytest.mark.parametrize(("line", "fault"), NO_RECORDS, ids=[fault for _, fault in NO_RECORDS])
def test_a_line_that_is_no_record_is_named_and_nothing_is_lost(tmp_path, line, fault):
    path = tmp_path / "out.jsonl"
    fill(path, 2)
    before = path.read_bytes() + line
    path.write_bytes(before)
    with RecordFile(path) as records, pytest.raises(InputError) as refusal:
        records.recover()
    message = str(refusal.value)
    assert message.startswith(f"{path}, line 3: JSON, but no record of this version: {fault}")
    assert len(message) < 400 + len(str(path))
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"out.jsonl", ".run.lock"}
    with pytest.raises(NotARecord):
        parse_record(line)


@pytest.mark.parametrize("key", [("p9", 0), ("p0", 1)], ids=["problem", "repetition"])
def test_a_search_of_another_run_is_named_by_its_line(tmp_path, key):
    path = tmp_path / "out.jsonl"
    with RecordFile(path) as records:
        records.append(make_record("p0"))
        records.append(make_record(*key))
        name = rf"problem {key[0]}, repetition {key[1]}"
        message = rf"out.jsonl, line 2: {name} is not one of this run's searches"
        with pytest.raises(InputError, match=message):
            records.recover({("p0", 0)})
    with pytest.raises(InputError, match=message):
        list(read_records(path, {("p0", 0)}))
    assert [record.key for record in read_records(path)] == [("p0", 0), key]


def test_a_record_that_only_lacks_its_newline_is_kept(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(list(read_records(path))) == 2
    with RecordFile(path) as records:
        assert records.recover() == 0
        assert records.finished == {("p0", 0), ("p1", 0)}
    assert path.read_bytes() == whole
    assert not (tmp_path / "out.jsonl.damaged").exists()


@pytest.mark.parametrize("problem_id", ["a/b", "../a", "a\nb", "\x1b[31m", "", "\ud800", "\u2028"])
def test_any_text_is_an_id_and_an_answer(tmp_path, problem_id):
    path = tmp_path / "out.jsonl"
    response = RecordedResponse(problem_id, problem_id, 0.5, True, 1, 1)
    record = replace(make_record(problem_id), responses=[response])
    with RecordFile(path) as records:
        records.append(record)
        assert records.recover() == 0
        assert records.finished == {record.key}
    assert list(read_records(path)) == [record]
    path.read_bytes().decode()


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


def test_a_full_disk_has_room_for_the_repair_after_a_kill(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    records = RecordFile(path)
    with no_file_beyond(60):
        assert records.recover() == 1
    records.close()
    assert path.read_bytes() == whole
    assert (tmp_path / "out.jsonl.damaged").read_bytes() == whole[:50] + b"\n"


@pytest.mark.parametrize("room", [0, 60])  # for nothing, for the damaged line alone
def test_a_repair_that_the_disk_has_no_room_for_leaves_the_file_alone(tmp_path, room):
    path = tmp_path / "out.jsonl"
    fill(path, 3)
    damaged = b"torn\n" + path.read_bytes()
    path.write_bytes(damaged)
    records = RecordFile(path)
    with no_file_beyond(room), pytest.raises(OSError, match=r"too large: '.*out.jsonl"):
        records.recover()
    assert path.read_bytes() == damaged
    assert not list(tmp_path.glob("*.tmp"))
    assert records.recover() == 1
    records.close()
    assert path.read_bytes() == damaged[5:]


def test_a_record_that_the_disk_does_not_take_can_be_written_later(tmp_path):
    path = tmp_path / "out.jsonl"
    fill(path, 1)
    with RecordFile(path) as records:
        assert records.recover() == 0
        with no_file_beyond(path.stat().st_size + 9), pytest.raises(OSError, match="too large"):
            records.append(make_record("p1"))
        records.append(make_record("p1"))
    assert [record.problem_id for record in read_records(path)] == ["p0", "p1"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_records_go_to_a_file(tmp_path, make):
    make(tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="cannot be written: it is no file"):
        RecordFile(tmp_path / "out.jsonl")
