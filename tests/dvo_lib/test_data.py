"""Trees of paths: what is read, and how bad rows are named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from dvo_lib.data import TreePaths
from tests.support.dvo_paths import path_rows, write_paths

VOCAB_SIZE = 64


def check_paths(paths, rows):
    assert len(paths) == len(rows)
    for path, row in zip(paths, rows, strict=True):
        assert path.prompt.tolist() == row["prompt_ids"]
        assert [step.tolist() for step in path.steps] == row["step_ids"]
        assert path.credits == row["credits"]
        assert path.reference == row[REFERENCE]
        assert path.correct == row["correct"]


def test_a_tree_is_the_list_of_its_paths(tmp_path):
    rows = path_rows(3, VOCAB_SIZE)
    data = TreePaths(str(write_paths(tmp_path / "paths.parquet", rows)), VOCAB_SIZE)
    assert (len(data), data.num_paths) == (3, 12)
    for tree in range(3):
        own = rows[4 * tree : 4 * tree + 4]
        check_paths(data[tree], own)
        tokens = [len(row["prompt_ids"]) + sum(map(len, row["step_ids"])) for row in own]
        assert data.length(tree) == sum(tokens)


def test_two_trees_of_one_problem_stay_two(tmp_path):
    rows = path_rows(2, VOCAB_SIZE)
    for row in rows:
        row["problem_id"] = "p"
    data = TreePaths(str(write_paths(tmp_path / "paths.parquet", rows)), VOCAB_SIZE)
    assert [len(tree) for tree in data] == [4, 4]


def test_of_a_folder_the_train_split_is_read(tmp_path):
    rows = path_rows(3, VOCAB_SIZE)
    write_paths(tmp_path / "train" / "0.parquet", rows[:4])
    write_paths(tmp_path / "train" / "1.parquet", rows[4:8])
    write_paths(tmp_path / "test" / "0.parquet", rows[8:])
    write_paths(tmp_path / "data" / "test-0.parquet", rows[8:])
    data = TreePaths(str(tmp_path), VOCAB_SIZE)
    assert len(data) == 2
    check_paths(data[1], rows[4:8])


def test_row_groups_make_no_difference(tmp_path):
    rows = path_rows(3, VOCAB_SIZE)
    table = pa.Table.from_pylist(rows, schema=PATH_SCHEMA)
    pq.write_table(table, tmp_path / "paths.parquet", row_group_size=5)
    data = TreePaths(str(tmp_path / "paths.parquet"), VOCAB_SIZE)
    for tree in range(3):
        check_paths(data[tree], rows[4 * tree : 4 * tree + 4])


def changed(row, column, value):
    rows = path_rows(2, VOCAB_SIZE)
    rows[row][column] = value
    return rows


def with_step(row, step, ids):
    rows = path_rows(2, VOCAB_SIZE)
    rows[row]["step_ids"][step] = ids
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            changed(3, REFERENCE, None),
            "row 3, column reference_logprobs is null: run data_prep.dvo reference first",
        ),
        (changed(2, "prompt_ids", None), "row 2, column prompt_ids is null"),
        (changed(2, "prompt_ids", []), "row 2, column prompt_ids is empty"),
        (changed(5, "step_ids", []), "row 5, column step_ids is empty"),
        (with_step(4, 1, []), "row 4, column step_ids, step 1 has no token"),
        (with_step(4, 1, None), "row 4, column step_ids, step 1 is null"),
        (with_step(4, 1, [5, 64]), "row 4, column step_ids, step 1: token id 64 is not in [0, 64)"),
        (
            with_step(4, 1, [5, None]),
            "row 4, column step_ids, step 1: token id None is not in [0, 64)",
        ),
        (
            changed(6, "prompt_ids", [5, -1]),
            "row 6, column prompt_ids: token id -1 is not in [0, 64)",
        ),
        (changed(1, "credits", [0.5] * 9), "row 1, column credits has 9 numbers for "),
        (changed(1, REFERENCE, [-1.0]), "row 1, column reference_logprobs has 1 numbers for "),
        (
            changed(1, "credits", [float("nan")] * len(path_rows(2, VOCAB_SIZE)[1]["credits"])),
            "row 1, column credits, step 0: nan is no finite number",
        ),
        (changed(1, "correct", None), "row 1, column correct is null"),
        ([], "no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, message):
    file = write_paths(tmp_path / "paths.parquet", rows)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as info:
        TreePaths(str(file), VOCAB_SIZE)
    assert str(info.value).startswith(f"{file}: {message}")


def test_a_missing_column_is_named(tmp_path):
    table = pa.Table.from_pylist(path_rows(1, VOCAB_SIZE), schema=PATH_SCHEMA)
    pq.write_table(table.drop_columns(["credits"]), tmp_path / "paths.parquet")
    with pytest.raises(ValueError, match=r"paths.parquet: no column credits; the columns are "):
        TreePaths(str(tmp_path), VOCAB_SIZE)


def test_a_column_of_another_type_is_named(tmp_path):
    table = pa.Table.from_pylist(path_rows(1, VOCAB_SIZE), schema=PATH_SCHEMA)
    texts = pa.array(["one"] * table.num_rows)
    table = table.set_column(table.column_names.index("credits"), "credits", texts)
    pq.write_table(table, tmp_path / "paths.parquet")
    with pytest.raises(ValueError, match=r"column credits is string, not list<"):
        TreePaths(str(tmp_path), VOCAB_SIZE)


@pytest.mark.parametrize("name", ["absent", "absent.parquet"])
def test_an_absent_source_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: no such file or folder"):
        TreePaths(str(tmp_path / name), VOCAB_SIZE)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "paths.parquet").write_text("none")
    with pytest.raises(ValueError, match=r"paths.parquet: can't be read as Parquet"):
        TreePaths(str(tmp_path), VOCAB_SIZE)


def test_token_ids_are_not_copied(tmp_path):
    data = TreePaths(str(write_paths(tmp_path / "p.parquet", path_rows(1, VOCAB_SIZE))), VOCAB_SIZE)
    first, second = data[0][0].steps[:2]
    assert np.shares_memory(first.base, second.base)
