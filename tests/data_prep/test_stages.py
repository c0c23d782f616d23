"""A stage's files: complete or absent, the same for any number of shards."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.reports import BadRow, RowReport
from data_prep.sources import TableRows
from data_prep.stages import MANIFESTS, Chunk, FinishedStage, Stage
from run_lib.commands import InputError
from tests.support.distributed import Job
from tests.support.outputs import contents

SETTINGS = {"temperature": 0.6, "models": ["a", "b"]}


def make_inputs(train: int = 10, validation: int = 3) -> dict[str, TableRows]:
    return {
        split: TableRows(pa.table({"n": range(rows)}), f"{split} {rows}")
        for split, rows in (("train", train), ("validation", validation))
    }


def open_stage(folder, inputs=None, rows_per_file=4, shard="0/1", settings=None) -> Stage:
    return Stage(folder, settings or SETTINGS, inputs or make_inputs(), rows_per_file, shard)


def fill(stage: Stage, limit: int | None = None) -> list[Chunk]:
    """Writes the rows with even numbers of pending chunks; the others are bad."""
    pending = list(stage.pending())[:limit]
    for chunk in pending:
        report = RowReport()
        even = [n for n in range(chunk.start, chunk.stop) if n % 2 == 0]
        for n in range(chunk.start, chunk.stop):
            if n % 2:
                report.add(BadRow(f"{chunk.split}-{n}", "odd", f"the number {n}"))
        report.totals["sum"] += sum(even)
        stage.write(chunk, pa.table({"n": pa.array(even, pa.int32())}), report)
    return pending


def read_numbers(folder) -> dict[str, list[int]]:
    return {
        split: [
            n
            for path in sorted((folder / split).glob("*.parquet"))
            for n in pq.read_table(path).column("n").to_pylist()
        ]
        for split in ("train", "validation")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    with open_stage(folder) as stage:
        fill(stage)
        stage.finish()
        return stage


def test_the_rows_of_a_split_make_chunks(tmp_path):
    stage = open_stage(tmp_path)
    assert [(c.split, c.name, c.start, c.stop) for c in stage.pending()] == [
        ("train", "00000-of-00003", 0, 4),
        ("train", "00001-of-00003", 4, 8),
        ("train", "00002-of-00003", 8, 10),
        ("validation", "00000-of-00001", 0, 3),
    ]


def test_half_a_stage_has_no_report(tmp_path):
    stage = open_stage(tmp_path)
    fill(stage, limit=3)
    assert stage.finish() is None
    with pytest.raises(ValueError, match=r"^/.* is not complete: run data_prep.x to its end first"):
        FinishedStage(tmp_path, "data_prep.x")


def test_a_chunk_becomes_a_file(finished):
    assert read_numbers(finished.output) == {"train": [0, 2, 4, 6, 8], "validation": [0, 2]}


def test_a_report_sums_the_chunks(finished):
    reports = finished.finish()
    report = RowReport.sum(reports.values())
    assert (report.rows_in, report.rows_out) == (13, 7)
    assert report.totals == {"sum": 22}
    assert report.bad_rows == {"odd": 6}


def test_a_report_has_five_examples(finished):
    reports = finished.finish()
    report = RowReport.sum(reports.values())
    assert report.examples["odd"] == [(f"train-{n}", f"the number {n}") for n in (1, 3, 5, 7, 9)]
    assert reports["validation"].examples["odd"] == [("validation-1", "the number 1")]


def test_a_manifest_has_what_made_the_chunk(finished):
    path = finished.output / MANIFESTS / "train-00001-of-00003.json"
    manifest = json.loads(path.read_text())
    assert manifest["input"] == "train 10"
    assert manifest["settings"] == {**SETTINGS, "rows_per_file": 4}
    assert manifest["report"]["rows_in"] == 4


def test_the_next_stage_reads_a_finished_one(finished):
    read = FinishedStage(finished.output, "data_prep.x")
    assert read.report == RowReport.sum(finished.finish().values())
    assert read.read(finished.chunks[1]).column("n").to_pylist() == [4, 6]


def test_the_next_stage_needs_a_stage(tmp_path):
    with pytest.raises(ValueError, match=r"^/.*: no output of data_prep.x .it has no stage.json.$"):
        FinishedStage(tmp_path, "data_prep.x")


def test_done_chunks_are_skipped_and_damaged_ones_made_again(tmp_path):
    stage = open_stage(tmp_path)
    fill(stage, limit=2)
    (tmp_path / "train" / ".00001-of-00003.parquet.12345678.tmp").write_bytes(b"cut off")
    stage.close()
    again = open_stage(tmp_path)
    assert [chunk.number for chunk in again.pending()] == [2, 0]
    path = tmp_path / "train" / "00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "train" / "00000-of-00003.parquet").unlink()
    assert [chunk.number for chunk in again.pending()] == [0, 1, 2, 0]
    fill(again)
    assert again.finish()
    assert read_numbers(tmp_path) == {"train": [0, 2, 4, 6, 8], "validation": [0, 2]}
    assert not list(tmp_path.rglob("*.tmp"))


def test_any_shards_make_the_same_files(tmp_path):
    one = open_stage(tmp_path / "one", make_inputs(41), rows_per_file=2)
    fill(one)
    report = one.finish()
    shards = [
        open_stage(tmp_path / "many", make_inputs(41), 2, shard=f"{index}/3") for index in range(3)
    ]
    made = [fill(shard, limit=4) for shard in shards]
    assert shards[0].finish() is None
    for shard in shards:
        shard.close()
    # The rest with another number of shards.
    rest = [open_stage(tmp_path / "many", make_inputs(41), 2, f"{i}/2") for i in range(2)]
    made += [fill(shard) for shard in rest]
    assert sorted((c.split, c.number) for chunks in made for c in chunks) == [
        (c.split, c.number) for c in one.chunks
    ]
    assert rest[0].finish() == report
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_chunk_without_rows_makes_no_file(tmp_path):
    stage = open_stage(tmp_path, make_inputs(train=1, validation=2), rows_per_file=1)
    fill(stage)
    assert stage.finish()["validation"].rows_out == 1
    assert not (tmp_path / "validation" / "00001-of-00002.parquet").exists()
    assert not list(stage.pending())
    assert FinishedStage(tmp_path, "x").read(stage.chunks[-1]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"settings": {**SETTINGS, "temperature": 1.0}},
            r"a was made with other settings: --temperature \(was 0.6, now 1.0\)[.] Choose another",
        ),
        ({"rows_per_file": 5}, r"--rows_per_file \(was 4, now 5\)"),
        ({"inputs": make_inputs(train=9)}, r": --input \(its content has changed\)[.]"),
    ],
)
def test_the_output_of_another_run_is_refused(tmp_path, options, message):
    open_stage(tmp_path / "a").close()
    with pytest.raises(InputError, match=message):
        open_stage(tmp_path / "a", **options)


def test_a_run_that_wrote_no_file_yet_is_bound_as_well(tmp_path):
    """Another shard of it may be at work on its first file."""
    first = open_stage(tmp_path, shard="0/2")
    with pytest.raises(InputError, match="--temperature"):
        open_stage(tmp_path, shard="1/2", settings={**SETTINGS, "temperature": 1.0})
    first.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"is not empty, and no stage.json"):
        open_stage(tmp_path)
    assert not (tmp_path / "stage.json").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "c").touch()
    with pytest.raises(InputError, match=r"--output .*c cannot be written"):
        open_stage(tmp_path / "c")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_file_of_settings_is_named(tmp_path, text):
    open_stage(tmp_path).close()
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(InputError, match=r"stage.json is damaged"):
        open_stage(tmp_path)


def test_the_content_of_a_model_is_told_apart_in_words(tmp_path):
    open_stage(tmp_path, settings={**SETTINGS, "model": "m", "model_digest": "abc"}).close()
    with pytest.raises(InputError, match=r"settings: --model \(its content has changed\)[.]"):
        open_stage(tmp_path, settings={**SETTINGS, "model": "m", "model_digest": "def"})


def test_a_model_may_move(tmp_path):
    open_stage(tmp_path, settings={**SETTINGS, "model": "m", "model_digest": "abc"}).close()
    open_stage(tmp_path, settings={**SETTINGS, "model": "n", "model_digest": "abc"}).close()


def test_one_process_a_shard(tmp_path):
    first = open_stage(tmp_path, shard="0/2")
    with pytest.raises(InputError, match="another process is working on --shard 0/2"):
        open_stage(tmp_path, shard="0/2")
    open_stage(tmp_path, shard="1/2").close()
    first.close()
    open_stage(tmp_path, shard="0/2").close()


def finish_together(connection, folder, num_rows) -> None:
    stage = open_stage(folder, make_inputs(num_rows), 1, shard=connection.recv())
    fill(stage)
    connection.send("filled")
    connection.recv()
    stage.finish()
    connection.send("finished")


def test_shards_that_end_together_all_finish(tmp_path):
    num_shards = 8
    args = [(tmp_path / "stage", 60)] * num_shards
    with Job(tmp_path, finish_together, args, {}) as job:
        for index, connection in enumerate(job.connections):
            connection.send(f"{index}/{num_shards}")
        assert [job.receive(index) for index in range(num_shards)] == ["filled"] * num_shards
        for connection in job.connections:
            connection.send("go")
        assert [job.receive(index) for index in range(num_shards)] == ["finished"] * num_shards
    assert FinishedStage(tmp_path / "stage", "x").report.rows_in == 63
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_shard_leaves_a_heartbeat(tmp_path):
    stage = open_stage(tmp_path, shard="1/2")
    log = tmp_path / ".shard-1-of-2.lock"
    assert log.stat().st_size == 0
    fill(stage, limit=1)
    first = log.stat().st_size
    fill(stage)
    assert log.stat().st_size > first > 0
