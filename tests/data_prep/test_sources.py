"""Rows by number, from Parquet files and from the hub."""

import random
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources import check_texts, open_sources, read_texts
from run_lib.commands import InputError


def make_table(num_rows: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + num_rows)
    return pa.table({"problem": [f"p{i}" for i in numbers], "answer": [str(i) for i in numbers]})


@pytest.fixture
def hub_folder(tmp_path):
    """Laid out as on the hub."""
    (tmp_path / "data").mkdir()
    for number, first in enumerate((0, 25, 50)):
        path = tmp_path / "data" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(make_table(25, first), path, row_group_size=10)
    pq.write_table(make_table(5, 75), tmp_path / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n---\n"
    )
    return tmp_path


def test_any_rows_are_those_of_the_whole_table(hub_folder):
    rng = random.Random(0)
    source = open_sources(str(hub_folder))["train"]
    whole = make_table(75)
    assert source.num_rows == 75
    assert source.column_names == ["problem", "answer"]
    for _ in range(50):
        start, stop = sorted(rng.sample(range(76), 2))
        assert source.read(start, stop, ["answer"]).equals(
            whole.slice(start, stop - start).select(["answer"])
        )
    both = source.read(9, 31, ["answer", "problem"])
    assert both.column_names == ["answer", "problem"]


def test_splits_are_folders_or_beginnings_of_names(tmp_path, hub_folder):
    assert {s: rows.num_rows for s, rows in open_sources(str(hub_folder)).items()} == {
        "train": 75,
        "test": 5,
    }
    folder = tmp_path / "ours"
    for split, rows in (("validation", 3), ("train", 4)):
        (folder / split).mkdir(parents=True)
        pq.write_table(make_table(rows), folder / split / "0.parquet")
    (folder / ".cache").mkdir()
    pq.write_table(make_table(9), folder / ".cache" / "0.parquet")
    sources = open_sources(str(folder))
    assert [(s, rows.num_rows) for s, rows in sources.items()] == [("train", 4), ("validation", 3)]
    (one,) = open_sources(str(folder / "train" / "0.parquet")).values()
    assert one.read(0, 4, ["problem"]).column("problem").to_pylist() == ["p0", "p1", "p2", "p3"]


def test_the_digest_tells_contents_apart_and_not_places(tmp_path, hub_folder):
    first = open_sources(str(hub_folder))["train"].digest
    copy = shutil.copytree(hub_folder, tmp_path / "copy" / "data")
    assert open_sources(str(copy))["train"].digest == first
    pq.write_table(make_table(25, 51), copy / "data" / "train-00002-of-00003.parquet")
    assert open_sources(str(copy))["train"].digest != first


def test_a_hub_id_is_read_through_datasets(hub_folder, monkeypatch):
    load = datasets.load_dataset
    asked = []

    def load_local(source, config):
        asked.append((source, config))
        return load(str(hub_folder), cache_dir=str(hub_folder / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    sources = open_sources("open-r1/OpenR1-Math-220k", config="default")
    assert asked == [("open-r1/OpenR1-Math-220k", "default")]
    assert list(sources) == ["train", "test"]
    assert sources["train"].read(24, 26, ["answer"]).to_pylist() == [
        {"answer": "24"},
        {"answer": "25"},
    ]
    assert sources["train"].digest != sources["test"].digest


@pytest.fixture
def empty(tmp_path):
    path = tmp_path / "empty.parquet"
    pq.write_table(make_table(0), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("some.jsonl", '{"problem": "p0"}\n{"problem": "p1", "answer": "1"}\n'),
        ("some.json", '[{"problem": "p0"}, {"problem": "p1", "answer": "1"}]'),
    ],
)
def test_a_file_of_json_is_the_train_split(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    sources = open_sources(str(tmp_path / name), required=("problem", "answer"))
    assert list(sources) == ["train"]
    rows = sources["train"].read(0, 2, ["answer", "problem"])
    assert rows.to_pydict() == {"answer": [None, "1"], "problem": ["p0", "p1"]}


def test_a_column_of_several_types_in_a_file_of_json_is_named(tmp_path):
    (tmp_path / "some.jsonl").write_text('{"answer": "a"}\n{"answer": [1]}\n')
    with pytest.raises(ValueError, match=r"^/.*some.jsonl: the column 'answer' has values of sev"):
        open_sources(str(tmp_path / "some.jsonl"))


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv"])
def test_a_file_of_text_without_rows_is_named(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=rf"^/.*{name} has no rows"):
        open_sources(str(tmp_path / name), required=("problem",))


def test_an_absent_source_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^/.*absent: no such file or folder"):
        open_sources(str(tmp_path / "absent"))


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^/.*: no .parquet file in this folder"):
        open_sources(str(tmp_path))


def test_a_source_without_rows_is_named(empty):
    with pytest.raises(ValueError, match=r"^/.*empty.parquet has no rows"):
        open_sources(str(empty))


def test_a_missing_column_is_named(empty):
    message = r"^/.*: no column solution in the train split; it has problem, answer"
    with pytest.raises(ValueError, match=message):
        open_sources(str(empty), required=("problem", "solution"))


def test_files_of_other_columns_are_named(tmp_path):
    pq.write_table(make_table(2), tmp_path / "one.parquet")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other.parquet has the columns .*'other'.*not"):
        open_sources(str(tmp_path))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "other.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=r"other.parquet can't be read as Parquet"):
        open_sources(str(tmp_path))


def test_a_hub_id_that_cannot_be_loaded_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"^owner/absent-data: no data set could be loaded: "):
        open_sources("owner/absent-data")


# Types

STRINGS = pa.list_(pa.string())
MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def write_columns(folder, *columns: pa.Array):
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"problem": column}), folder / f"{number}.parquet")
    return open_sources(str(folder))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["a"]), pa.array(["b"], pa.large_string())),
        (pa.array(["a"], pa.large_string()), pa.array(["b"])),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"])),
        (pa.array(["a"], pa.string_view()), pa.array(["b"])),
        (pa.array([1], pa.int32()), pa.array([2], pa.int64())),
        (pa.array([["a"]], STRINGS), pa.array([["b"]], pa.large_list(pa.large_string()))),
        (pa.array([None]), pa.array(["b"])),
        (pa.array(["a"]), pa.array([None])),
    ],
)
def test_files_of_types_that_mean_the_same_are_one_data_set(tmp_path, one, other):
    source = write_columns(tmp_path, one, other)["train"]
    table = source.read(0, 2, ["problem"])
    assert table.column("problem").to_pylist() == one.to_pylist() + other.to_pylist()
    assert table.schema == source.read(1, 2, ["problem"]).schema == source.schema


@pytest.mark.parametrize("other", [pa.array([1]), pa.array([["a"]], STRINGS)])
def test_files_of_types_that_mean_something_else_are_named(tmp_path, other):
    with pytest.raises(InputError, match=r"1.parquet has columns of other types: .*problem"):
        write_columns(tmp_path, pa.array(["a"]), other)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[{"role": "user", "content": "What is 1?"}]], MESSAGES),
        pa.array([{"role": "user"}]),
        pa.array([b"What is 1?"]),
        pa.array([True]),
    ],
)
def test_a_column_without_texts_is_named_with_its_type(tmp_path, column):
    sources = write_columns(tmp_path, column)
    message = r"^mine, row 0 of train: the column 'problem' is of type .*(struct|binary|bool)"
    with pytest.raises(ValueError, match=message):
        check_texts(sources, "mine", ["problem", "absent"])


def test_texts_are_taken_out_of_lists_of_one():
    column = pa.array([["a"], [], None, ["b", "c"]], STRINGS)
    assert [row["problem"] for row in read_texts(pa.table({"problem": column}))] == [
        *("a", None, None, ["b", "c"]),
    ]


def test_a_number_that_is_missing_is_no_text():
    assert read_texts(pa.table({"answer": [1.5, float("nan")]})) == [
        {"answer": 1.5},
        {"answer": None},
    ]
