import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from classifier_lib.data import GroupedRollouts, GroupSampler

NUM_RESPONSES = 4
Rows = list[dict[str, Any]]


def check_equals_rows(data: GroupedRollouts, rows: Rows) -> None:
    assert data.num_rows == len(rows)
    assert len(data) == len(rows) * NUM_RESPONSES
    for index in range(len(data)):
        row, response = divmod(index, NUM_RESPONSES)
        sample = data[index]
        assert sample.roll_in.tolist() == rows[row]["roll_in_ids"][response]
        assert sample.roll_out.tolist() == rows[row]["roll_outs_ids"][response]
        assert sample.label == rows[row]["labels"][response]
        assert data.length(index) == len(sample.roll_in) + len(sample.roll_out)
    for index in (-1, len(data)):
        with pytest.raises(IndexError, match=f"sample {index} of {len(data)}"):
            data[index]


def table_data(table: pa.Table, **kwargs: Any) -> GroupedRollouts:
    """A data set over a table in memory, in whatever chunks and types it has."""
    return GroupedRollouts(table, NUM_RESPONSES, **kwargs)


def make_schema(
    make_list: Callable[..., pa.DataType] = pa.list_, integer: pa.DataType | None = None
) -> pa.Schema:
    tokens = make_list(make_list(integer or pa.int64()))
    return pa.schema(
        {"roll_in_ids": tokens, "roll_outs_ids": tokens, "labels": make_list(pa.int64())}
    )


def sliced_and_chunked(rows: Rows, schema: pa.Schema) -> pa.Table:
    """The rows in two slices of longer tables, and the labels chunked otherwise than the tokens."""
    rows = [{name: row[name] for name in schema.names} for row in rows]
    table = pa.concat_tables(
        [
            pa.Table.from_pylist(rows[2:3] + rows[:4] + rows[:1], schema=schema).slice(1, 4),
            pa.Table.from_pylist(rows[:1] + rows[4:] + rows[:2], schema=schema).slice(
                1, len(rows) - 4
            ),
        ]
    )
    return table.set_column(2, "labels", table.column("labels").combine_chunks())


def test_slices_equal_decoding(rollout_folder):
    rows = datasets.load_from_disk(rollout_folder).to_list()
    check_equals_rows(GroupedRollouts(str(rollout_folder), NUM_RESPONSES, vocab_size=64), rows)


def test_saved_split_and_parquet(rollout_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    dataset = datasets.Dataset.from_list(rollout_rows)
    datasets.DatasetDict(train=dataset).save_to_disk(tmp_path / "splits")
    parts = tmp_path / "parts"
    parts.mkdir()
    pq.write_table(pa.Table.from_pylist(rollout_rows[:6]), parts / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rollout_rows[6:]), parts / "b.parquet")
    for source, rows in (
        (tmp_path / "splits", rollout_rows),
        (parts, rollout_rows),
        (parts / "a.parquet", rollout_rows[:6]),
    ):
        check_equals_rows(GroupedRollouts(str(source), NUM_RESPONSES), rows)


@pytest.mark.parametrize("make_list", [pa.list_, pa.large_list])
@pytest.mark.parametrize("integer", [pa.int32(), pa.int64()])
def test_sliced_and_chunked_tables(rollout_rows, make_list, integer):
    table = sliced_and_chunked(rollout_rows, make_schema(make_list, integer))
    assert len(table.to_batches()) == 2
    check_equals_rows(table_data(table, vocab_size=64), rollout_rows)


def test_slices_are_views_of_the_file(rollout_folder):
    data = GroupedRollouts(str(rollout_folder), NUM_RESPONSES)
    first, again = data[7], data[7]
    assert np.shares_memory(first.roll_in, again.roll_in)
    assert np.shares_memory(first.roll_out, again.roll_out)
    assert not first.roll_out.flags.writeable


def set_entry(column: str, response: int, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row[column].__setitem__(response, value)


# By what is changed in row 6: the message.
BAD_ROWS = [
    (lambda row: row["labels"].pop(), "row 6, column labels has 3 responses, not 4"),
    (lambda row: row["labels"].extend([0] * 4), "row 6, column labels has 8 responses"),
    (lambda row: row["labels"].clear(), "row 6, column labels has 0 responses"),
    (lambda row: row.update(labels=None), "row 6, column labels is null"),
    (set_entry("labels", 2, 3), "row 6, column labels, response 2 is 3; the classes are 0 to 2"),
    (set_entry("labels", 0, -1), "row 6, column labels, response 0 is -1"),
    (set_entry("labels", 2, None), "row 6, column labels, response 2 is null"),
    (lambda row: row["roll_in_ids"].pop(), "row 6, column roll_in_ids has 3 responses"),
    (lambda row: row["roll_outs_ids"].append([1]), "row 6, column roll_outs_ids has 5"),
    (lambda row: row["roll_in_ids"].clear(), "row 6, column roll_in_ids has 0 responses"),
    (lambda row: row.update(roll_in_ids=None), "row 6, column roll_in_ids is null"),
    (lambda row: row.update(roll_outs_ids=None), "row 6, column roll_outs_ids is null"),
    (set_entry("roll_outs_ids", 1, []), "row 6, column roll_outs_ids, response 1 has no token"),
    (set_entry("roll_in_ids", 3, []), "row 6, column roll_in_ids, response 3 has no token"),
    (set_entry("roll_in_ids", 0, None), "row 6, column roll_in_ids, response 0 is null"),
    (set_entry("roll_outs_ids", 3, None), "row 6, column roll_outs_ids, response 3 is null"),
    (set_entry("roll_outs_ids", 1, [5, None]), "roll_outs_ids, response 1 holds a null"),
    (
        set_entry("roll_in_ids", 2, [5, 64]),
        "row 6, column roll_in_ids, response 2 holds token id 64; the vocabulary has 64",
    ),
    (
        set_entry("roll_outs_ids", 0, [-1]),
        "row 6, column roll_outs_ids, response 0 holds token id -1",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_bad_rows_are_named(rollout_rows, change, message):
    rows = copy.deepcopy(rollout_rows)
    change(rows[6])
    table = pa.concat_tables([pa.Table.from_pylist(rows[:5]), pa.Table.from_pylist(rows[5:])])
    with pytest.raises(ValueError, match=message) as error:
        table_data(table, vocab_size=64)
    assert str(error.value).startswith("the table: row 6, ")
    assert str(error.value).endswith("; skip_bad_rows leaves them out")
    assert "more bad rows" not in str(error.value)


@pytest.mark.parametrize("make_list", [pa.list_, pa.large_list])
@pytest.mark.parametrize("integer", [pa.int32(), pa.int64()])
@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_a_bad_row_is_left_out(rollout_rows, change, message, make_list, integer):
    rows = copy.deepcopy(rollout_rows)
    change(rows[6])  # in the middle of the second chunk
    table = sliced_and_chunked(rows, make_schema(make_list, integer))
    data = table_data(table, vocab_size=64, skip_bad_rows=True)
    assert [bad.row for bad in data.bad_rows] == [6]
    assert message in str(data.bad_rows[0])
    check_equals_rows(data, rows[:6] + rows[7:])


def several_bad(rollout_rows: Rows) -> Rows:
    """Rows 0, 3, 4, 6 and 9 are bad, row 3 more than once."""
    rows = copy.deepcopy(rollout_rows)
    rows[0]["labels"] = None
    rows[3]["labels"].append(1)
    rows[3]["roll_in_ids"][1] = [64]
    rows[3]["roll_in_ids"][2] = [65, 66]
    rows[4]["roll_outs_ids"].pop(0)
    rows[6]["roll_in_ids"][3] = [1, None, 1]
    rows[9]["roll_outs_ids"][3] = [1, 2, 64]
    return rows


def test_several_bad_rows(rollout_rows):
    rows = several_bad(rollout_rows)
    table = sliced_and_chunked(rows, make_schema())
    with pytest.raises(ValueError, match=r"row 0, column labels is null \(and 4 more bad rows\); "):
        table_data(table, vocab_size=64)
    data = table_data(table, vocab_size=64, skip_bad_rows=True)
    assert [(bad.row, bad.column) for bad in data.bad_rows] == [
        (0, "labels"),
        (3, "labels"),
        (4, "roll_outs_ids"),
        (6, "roll_in_ids"),
        (9, "roll_outs_ids"),
    ]
    check_equals_rows(data, [rows[i] for i in (1, 2, 5, 7, 8)])
    # Token ids are not looked at without a vocabulary.
    data = table_data(table, skip_bad_rows=True)
    check_equals_rows(data, [rows[i] for i in (1, 2, 5, 7, 8, 9)])


def test_every_row_bad(rollout_rows):
    rows = [{**row, "labels": [7] * 4} for row in rollout_rows]
    with pytest.raises(
        ValueError, match="the table: every row is bad; the first: row 0, column labels"
    ):
        table_data(pa.Table.from_pylist(rows), skip_bad_rows=True)


def test_tokens_behind_a_null(rollout_rows):
    """A null list may span tokens in Arrow's buffers; they belong to no sample."""
    table = sliced_and_chunked(rollout_rows, make_schema()).combine_chunks()
    outer = table.column("roll_outs_ids").chunk(0)
    is_null = np.zeros(len(outer.values), dtype=bool)
    is_null[4 * 5 + 2] = True
    inner = pa.ListArray.from_arrays(
        outer.values.offsets, outer.values.values, mask=pa.array(is_null)
    )
    assert len(inner.values) == len(outer.values.values)
    column = pa.ListArray.from_arrays(outer.offsets, inner)
    table = table.set_column(1, "roll_outs_ids", column)
    data = table_data(table, vocab_size=64, skip_bad_rows=True)
    assert [str(bad) for bad in data.bad_rows] == [
        "row 5, column roll_outs_ids, response 2 is null"
    ]
    check_equals_rows(data, rollout_rows[:5] + rollout_rows[6:])


@pytest.mark.parametrize("integer", [pa.int32(), pa.int64()])
def test_nothing_is_copied_with_nulls_elsewhere(rollout_rows, integer):
    rows = several_bad(rollout_rows)
    table = sliced_and_chunked(rows, make_schema(integer=integer))
    buffers = {
        name: [
            np.frombuffer(chunk.values.values.buffers()[1], integer.to_pandas_dtype())
            for chunk in table.column(name).chunks
        ]
        for name in ("roll_in_ids", "roll_outs_ids")
    }
    data = table_data(table, vocab_size=64, skip_bad_rows=True)
    for sample in (data[i] for i in range(len(data))):
        assert any(np.shares_memory(sample.roll_in, x) for x in buffers["roll_in_ids"])
        assert any(np.shares_memory(sample.roll_out, x) for x in buffers["roll_outs_ids"])


@pytest.mark.parametrize("skip", [False, True])
def test_soft_targets_equal_a_loop(rollout_rows, skip):
    rng = np.random.default_rng(3)
    rows = copy.deepcopy(rollout_rows)
    for row in rows:
        # Equal ones, some of one length and others, one a prefix of another.
        choices = [[1, 2, 3], [1, 2, 4], [1, 2, 3, 4]]
        row["roll_in_ids"] = [choices[i] for i in rng.integers(0, 3, NUM_RESPONSES)]
    if skip:
        rows[1]["labels"].pop()
        rows[7]["roll_in_ids"].append([1])
    table = sliced_and_chunked(rows, make_schema())
    data = table_data(table, skip_bad_rows=skip, soft_targets=True)
    good = [row for i, row in enumerate(rows) if not (skip and i in (1, 7))]
    seen = set()
    for index in range(len(data)):
        row, response = good[index // NUM_RESPONSES], index % NUM_RESPONSES
        labels = [
            label
            for ids, label in zip(row["roll_in_ids"], row["labels"], strict=True)
            if ids == row["roll_in_ids"][response]
        ]
        assert data[index].soft_target == pytest.approx(labels.count(1) / len(labels))
        seen.add(data[index].soft_target)
    assert len(seen) > 2  # more than rewards
    assert table_data(table, skip_bad_rows=skip)[0].soft_target is None


class Together:
    """Several processes played by threads: what each gives to a gather is kept in `given`."""

    def __init__(self, world_size: int):
        self.world_size = world_size
        self.given: list[Any] = [None] * world_size
        self.barrier = threading.Barrier(world_size, timeout=30)

    def run(self, function: Callable[[Any], Any]) -> list[Any]:
        """Returns what `function(processes)` returned or raised in each."""
        results: list[Any] = [None] * self.world_size

        def work(rank: int) -> None:
            try:
                results[rank] = function(Member(self, rank))
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Member:
    def __init__(self, together: Together, rank: int):
        self.together, self.rank, self.world_size = together, rank, together.world_size

    def all_gather_objects(self, value: Any) -> list[Any]:
        self.together.given[self.rank] = value
        self.together.barrier.wait()
        return list(self.together.given)


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_processes_share_the_check_of_token_ids(rollout_rows, world_size):
    rows = several_bad(rollout_rows)
    rows[8]["roll_in_ids"][0] = [99]
    table = sliced_and_chunked(rows, make_schema())
    alone = table_data(table, vocab_size=64, skip_bad_rows=True)

    def load(processes: Any, skip: bool = True) -> GroupedRollouts:
        return table_data(table, vocab_size=64, skip_bad_rows=skip, processes=processes)

    together = Together(world_size)
    for data in together.run(load):
        assert data.bad_rows == alone.bad_rows
        check_equals_rows(data, [rows[i] for i in (1, 2, 5, 7)])
    # Bad token ids are in rows 3, 8 and 9; each was seen by the process whose share it is.
    found = [sorted({bad.row for bad in given}) for given in together.given]
    shares = [range(10 * r // world_size, 10 * (r + 1) // world_size) for r in range(world_size)]
    assert found == [[row for row in (3, 8, 9) if row in share] for share in shares]

    errors = together.run(lambda processes: load(processes, skip=False))
    assert {type(error) for error in errors} == {ValueError}
    assert len({str(error) for error in errors}) == 1
    assert "row 0, column labels is null (and 5 more bad rows)" in str(errors[0])


def retyped(table: pa.Table, name: str, to: pa.DataType) -> pa.Table:
    """The table with another column, of nulls, in place of one."""
    nulls = pa.array([[None]] * table.num_rows, to)
    return table.set_column(table.column_names.index(name), name, nulls)


def test_bad_tables_are_named(rollout_rows, monkeypatch, tmp_path):
    table = pa.Table.from_pylist(rollout_rows)
    with pytest.raises(ValueError, match=r"no column labels; the columns are message_id, problem"):
        table_data(table.drop_columns(["labels"]))
    with pytest.raises(ValueError, match="no rows"):
        table_data(table.slice(0, 0))
    flat = table.set_column(
        table.column_names.index("roll_in_ids"), "roll_in_ids", table.column("answer")
    )
    with pytest.raises(ValueError, match="column roll_in_ids is string, not a list"):
        table_data(flat)
    with pytest.raises(ValueError, match=r"column roll_outs_ids is list<.*string>, not lists of"):
        table_data(retyped(table, "roll_outs_ids", pa.list_(pa.string())))
    with pytest.raises(ValueError, match="column labels is double, not integers"):
        table_data(retyped(table, "labels", pa.list_(pa.float64())))
    with pytest.raises(ValueError, match="must be positive, not 0"):
        GroupedRollouts("table", 0)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for source, message in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "broken.parquet", "broken.parquet: no data set could be read: "),
    ):
        with pytest.raises(ValueError, match=message):
            GroupedRollouts(str(source), NUM_RESPONSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a save_to_disk folder nor any"):
        GroupedRollouts(str(tmp_path / "empty"), NUM_RESPONSES)


def test_sampler_covers_each_epoch_in_whole_groups():
    sampler = GroupSampler(num_rows=5, num_responses=4, group_size=2, seed=1)
    batches = [sampler.next_batch(8) for _ in range(5)]  # 40 samples: two epochs of 20
    order = np.concatenate(batches)
    for epoch in (order[:20], order[20:]):
        assert sorted(epoch) == list(range(20))
    groups = order.reshape(-1, 2)
    assert (groups[:, 0] % 2 == 0).all()
    assert (groups[:, 1] == groups[:, 0] + 1).all()
    assert order[:20].tolist() != order[20:].tolist()
    assert (sampler.epoch, sampler.position) == (2, 0)
    assert GroupSampler(5, 4, 2, seed=2).next_batch(8).tolist() != batches[0].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_global_order_does_not_depend_on_ranks(world_size):
    expected = GroupSampler(6, 4, 2, seed=0).next_batch(16)
    slices = [
        GroupSampler(6, 4, 2, seed=0).next_batch(16).reshape(world_size, -1)[rank]
        for rank in range(world_size)
    ]
    assert np.concatenate(slices).tolist() == expected.tolist()


@pytest.mark.parametrize("batches_before", [0, 1, 3, 7])
def test_sampler_resumes_where_it_was(batches_before):
    sampler = GroupSampler(5, 4, 2, seed=0)
    for _ in range(batches_before):
        sampler.next_batch(12)
    resumed = GroupSampler(5, 4, 2, seed=0)
    resumed.load_state_dict(sampler.state_dict())
    for _ in range(3):
        assert resumed.next_batch(12).tolist() == sampler.next_batch(12).tolist()


def test_sampler_refuses_what_does_not_fit():
    sampler = GroupSampler(5, 4, 2, seed=0)
    with pytest.raises(ValueError, match="groups of 3 don't divide 4"):
        GroupSampler(5, 4, 3, seed=0)
    with pytest.raises(ValueError, match="whole groups"):
        sampler.next_batch(3)
    with pytest.raises(ValueError, match=r"10 groups.*had 12"):
        sampler.load_state_dict(GroupSampler(6, 4, 2, seed=0).state_dict())


def test_source_folder_stays_untouched(rollout_folder: Path):
    before = sorted(path.name for path in rollout_folder.iterdir())
    GroupedRollouts(str(rollout_folder), NUM_RESPONSES)
    assert sorted(path.name for path in rollout_folder.iterdir()) == before


def test_a_wrong_vocabulary_is_one_entry_a_row(rollout_rows):
    """Not one a token: a wrong model would mean billions."""
    table = pa.Table.from_pylist(rollout_rows)
    with pytest.raises(ValueError, match=r"row 0, .*holds token id .*and 9 more bad rows"):
        table_data(table, vocab_size=1)
    data = table_data(table)
    chunk = data._chunks[0]
    assert len(chunk.check_token_ids(1, range(0, 10))) == 20  # ten rows, two columns


def test_rows_left_out_before_are_left_out_unchecked(rollout_rows):
    rows = copy.deepcopy(rollout_rows)
    rows[2]["labels"][0] = 9
    rows[4]["roll_in_ids"][0] = [99]
    table = pa.Table.from_pylist(rows)
    first = table_data(table, vocab_size=64, skip_bad_rows=True)
    assert first.left_out == [2, 4]
    again = table_data(table, left_out=first.left_out)
    assert again.bad_rows == []
    assert again.left_out == [2, 4]
    check_equals_rows(again, [row for i, row in enumerate(rows) if i not in (2, 4)])
