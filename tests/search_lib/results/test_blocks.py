"""The file of blocks: found by their records, whole or absent, whatever happened to it."""

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest

from run_lib.commands import InputError
from search_lib.answer_rules import ANSWER_RULES
from search_lib.results.answers import answers_name
from search_lib.results.blocks import BLOCKS_NAME, BlocksFile, RecordedBlocks, RunBlocks
from search_lib.results.cost import SearchCost
from search_lib.results.records import (
    Record,
    RecordedResponse,
    RecordFile,
    read_records,
)
from search_lib.strategies import Node

TREE = [Node(None, 3, 0.5, "length"), Node(None, 1, 0.25, "length"), Node(0, 2, 1.0, "stop")]
IDS = [[7, 151_935, 2**32 - 1], [0], [9, 8]]
VALUES = [[0.0, 0.123, 0.5], [0.25], [0.999, 1.0]]
TOLERANCE = 1 / 509


def make_record(problem_id: str, session: str | None = "s") -> Record:
    cost = SearchCost(6, 0.125, session=session)
    responses = [RecordedResponse("", None, 1.0, True, 5, 2)]
    return Record(problem_id, 0, "1 + 1 = ?", "2", 7, responses, TREE, cost)


def make_blocks(problem_id: str, session: str | None = "s", values=VALUES) -> RecordedBlocks:
    arrays = [np.array(of_block, np.float32) for of_block in values] if values else None
    ids = [np.array(of_block, np.uint32) for of_block in IDS]
    return RecordedBlocks.pack((problem_id, 0, session), [5, 6], ids, arrays)


def make_blocks_line(problem_id: str) -> bytes:
    return json.dumps(vars(make_blocks(problem_id))).encode()


def write_run(path, names, session="s"):
    with RecordFile(path) as records:
        records.recover()
        blocks = BlocksFile(path)
        blocks.recover()
        for name in names:
            if (name, 0) not in records.finished:
                blocks.append(make_blocks(name, session))
                records.append(make_record(name, session))


def test_blocks_come_back_as_they_were(tmp_path):
    path = tmp_path / "out.jsonl"
    write_run(path, ["a", "b"])
    run = RunBlocks(path)
    for record in read_records(path):
        search = run.of(record)
        assert search.prompt_ids == [5, 6]
        assert [block.node for block in search.blocks] == TREE
        assert [block.token_ids.tolist() for block in search.blocks] == IDS
        for block, values in zip(search.blocks, VALUES, strict=True):
            assert block.token_values.tolist() == pytest.approx(values, abs=TOLERANCE)
        assert search.response_ids(2).tolist() == [*IDS[0], *IDS[2]]
        assert search.response_ids(1).tolist() == IDS[1]
    assert (run.missing, run.remark()) == ([], None)


def test_values_at_the_borders_are_exact_and_others_within_their_error(tmp_path):
    path = tmp_path / "out.jsonl"
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    tree = [Node(None, 1001, 1.0, "stop")]
    ids = [np.arange(1001, dtype=np.uint32)]
    BlocksFile(path).append(RecordedBlocks.pack(("a", 0, "s"), [1], ids, [values]))
    (block,) = RunBlocks(path).of(replace(make_record("a"), tree=tree)).blocks
    assert (block.token_values[0], block.token_values[-1]) == (0.0, 1.0)
    assert np.abs(block.token_values - values).max() <= 1 / 510 + 1e-6


def test_blocks_without_values_have_none(tmp_path):
    path = tmp_path / "out.jsonl"
    BlocksFile(path).append(make_blocks("a", values=None))
    search = RunBlocks(path).of(make_record("a"))
    assert [block.token_values for block in search.blocks] == [None] * 3


@pytest.mark.parametrize("session", ["s", None])
def test_a_run_of_an_earlier_version_lacks_blocks(tmp_path, session):
    run = RunBlocks(tmp_path / "out.jsonl")
    assert run.of(make_record("a", session)) is None
    assert run.missing == [("a", 0)]
    assert "earlier version or --no_save_blocks" in run.remark()


def test_blocks_of_another_session_are_another_search(tmp_path):
    path = tmp_path / "out.jsonl"
    BlocksFile(path).append(make_blocks("a", "killed"))
    run = RunBlocks(path)
    assert run.of(make_record("a", "later")) is None
    assert run.remark() == f"1 searches lack their blocks in {tmp_path / 'blocks.jsonl'}"


def test_a_torn_line_is_moved_aside_and_a_lost_newline_comes_back(tmp_path):
    path = tmp_path / "out.jsonl"
    write_run(path, ["a", "b"])
    blocks = BlocksFile(path)
    whole = blocks.path.read_bytes()
    blocks.path.write_bytes(whole[:-30])
    assert blocks.recover() == 1
    assert blocks.path.read_bytes() == whole.splitlines(keepends=True)[0]
    blocks.path.write_bytes(whole[:-1])
    assert blocks.recover() == 0
    assert blocks.path.read_bytes() == whole


def test_a_damaged_line_costs_its_own_search_alone(tmp_path):
    path = tmp_path / "out.jsonl"
    write_run(path, ["a", "b", "c"])
    blocks_path = tmp_path / "blocks.jsonl"
    lines = blocks_path.read_bytes().splitlines(keepends=True)
    blocks_path.write_bytes(lines[0] + b"\0" * 50 + lines[1][50:] + lines[2])
    run = RunBlocks(path)
    found = [run.of(record) is not None for record in read_records(path)]
    assert found == [True, False, True]
    assert run.remark().endswith("which has 1 damaged lines")


def changed(key, value):
    line = json.loads(json.dumps(vars(make_blocks("a"))))
    return json.dumps(line | {key: value}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (changed("token_ids", "no base64!"), "the tokens are damaged: Only base64 data"),
        (changed("token_ids", "AAAA"), "the tokens are damaged: Error -3"),
        (changed("token_values", make_blocks("a").token_ids), "not the 6 tokens of its tree"),
        (changed("token_ids", make_blocks("a").token_ids[:12]), "not the 6 tokens of its tree"),
    ],
)
def test_tokens_that_cannot_be_read_are_named_by_line(tmp_path, line, message):
    path = tmp_path / "out.jsonl"
    BlocksFile(path).append(make_blocks("b"))
    with (tmp_path / "blocks.jsonl").open("ab") as file:
        file.write(line)
    run = RunBlocks(path)
    assert run.of(make_record("b")) is not None
    with pytest.raises(InputError, match=f"blocks.jsonl, line 2: problem a, .* 0: {message}"):
        run.of(make_record("a"))


def test_a_file_that_cannot_be_written_is_named_at_the_start(tmp_path):
    (tmp_path / "blocks.jsonl").mkdir()
    with pytest.raises(InputError, match=r"blocks.jsonl cannot be written: it is no file"):
        BlocksFile(tmp_path / "out.jsonl").recover()


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    write_run(path, ["a", "b"])
    run = RunBlocks(path)
    for other in (b'{"problem": 1}', make_blocks_line("b"), b"torn"):
        run.path.write_bytes(other)
        with pytest.raises(InputError, match=r"blocks.jsonl was changed while it was read"):
            run.of(make_record("a"))


def test_a_line_of_something_else_is_refused(tmp_path):
    (tmp_path / "blocks.jsonl").write_text('{"problem": 1}\n')
    with pytest.raises(InputError, match=r"blocks.jsonl, line 1: JSON, but no record of this vers"):
        RunBlocks(tmp_path / "out.jsonl")


def test_the_size_of_a_token_is_bounded():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 151_936, 4096, np.uint32) for _ in range(8)]  # nothing to compress
    values = [rng.random(4096).astype(np.float32) for _ in range(8)]
    packed = RecordedBlocks.pack(("a", 0, "s"), [1], ids, values)
    assert len(packed.token_ids) < 4 * 8 * 4096
    assert len(packed.token_values) < 1.4 * 8 * 4096


@pytest.mark.parametrize("name", [BLOCKS_NAME, *map(answers_name, ANSWER_RULES.values())])
def test_records_do_not_take_the_name_of_another_file_of_the_run(tmp_path, name):
    with pytest.raises(InputError, match=f"--output_path .*: a run writes {name} beside its rec"):
        RecordFile(tmp_path / name)
    assert not list(tmp_path.iterdir())


def write_until(path, names, session, steps):
    """Writes a run, and is killed before the file operation number `steps`."""
    left = [steps]

    def count(event, arguments):
        if event in ("open", "os.rename", "os.truncate"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_run(path, names, session)


def test_killed_before_any_file_operation_every_record_has_its_blocks(tmp_path):
    path = tmp_path / "out.jsonl"
    names = ["a", "b", "c"]
    fork = multiprocessing.get_context("fork")
    for steps in range(40):
        session = f"s{steps}"
        before = [p.read_bytes() if p.exists() else b"" for p in (path, tmp_path / "blocks.jsonl")]
        process = fork.Process(target=write_until, args=(path, names, session, steps))
        process.start()
        process.join()
        after = [p.read_bytes() if p.exists() else b"" for p in (path, tmp_path / "blocks.jsonl")]
        assert all(new.startswith(old) for new, old in zip(after, before, strict=True))
        records = list(read_records(path)) if path.exists() else []
        run = RunBlocks(path)
        assert all(run.of(record) is not None for record in records)
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert [record.problem_id for record in records] == names
    # Some kills fell between the two files, and what they left there is nobody's.
    assert len((tmp_path / "blocks.jsonl").read_bytes().splitlines()) > len(records)
