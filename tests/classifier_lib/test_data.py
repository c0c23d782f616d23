import copy
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from classifier_lib import data as data_module
from classifier_lib.data import (
    PAD_MULTIPLE,
    DataError,
    GroupedRollouts,
    GroupSampler,
    Rollout,
    collate_padded,
)

NUM_RESPONSES = 4


def check_equals_rows(data: GroupedRollouts, rows: list[dict]) -> None:
    assert len(data) == len(rows) * NUM_RESPONSES
    for index in range(len(data)):
        row, response = divmod(index, NUM_RESPONSES)
        sample = data[index]
        assert sample.roll_in.tolist() == rows[row]["roll_in_ids"][response]
        assert sample.roll_out.tolist() == rows[row]["roll_outs_ids"][response]
        assert sample.label == rows[row]["labels"][response]


def table_data(monkeypatch: pytest.MonkeyPatch, table: pa.Table, **kwargs: int) -> GroupedRollouts:
    """A data set over a table in memory, in whatever chunks and types it has."""
    monkeypatch.setattr(data_module, "_load_table", lambda source: table)
    return GroupedRollouts("table", NUM_RESPONSES, **kwargs)


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
def test_sliced_and_chunked_tables(rollout_rows, monkeypatch, make_list, integer):
    tokens = make_list(make_list(integer))
    schema = pa.schema(
        {"roll_in_ids": tokens, "roll_outs_ids": tokens, "labels": make_list(pa.int64())}
    )
    rows = [{name: row[name] for name in schema.names} for row in rollout_rows]
    table = pa.concat_tables(
        [
            pa.Table.from_pylist(rows[:5], schema=schema).slice(1, 3),
            pa.Table.from_pylist(rows, schema=schema).slice(4),
        ]
    )
    # Columns chunked at different rows.
    table = table.set_column(2, "labels", table.column("labels").combine_chunks())
    check_equals_rows(table_data(monkeypatch, table, vocab_size=64), rollout_rows[1:])


def test_slices_are_views_and_fast(rollout_folder):
    data = GroupedRollouts(str(rollout_folder), NUM_RESPONSES)
    first, again = data[7], data[7]
    assert np.shares_memory(first.roll_out, again.roll_out)
    assert not first.roll_out.flags.writeable
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for index in range(40):
            data[index]
        best = min(best, (time.perf_counter() - start) / 40)
    assert best < 2e-4  # 13 us measured; decoding the row takes milliseconds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["labels"].pop(), "row 6, column labels has 3 responses, not the 4"),
        (lambda row: row["roll_in_ids"].pop(), "row 6, column roll_in_ids has 3 responses"),
        (lambda row: row["roll_outs_ids"].append([1]), "row 6, column roll_outs_ids has 5"),
        (lambda row: row.update(labels=[0, 1, 3, 1]), "row 6, column labels, response 2 is 3"),
        (
            lambda row: row.update(labels=[0, 1, None, 1]),
            "row 6, column labels, response 2 is null",
        ),
        (lambda row: row.update(labels=None), "row 6, column labels is null"),
        (
            lambda row: row["roll_outs_ids"].__setitem__(1, []),
            "row 6, column roll_outs_ids, response 1 has no token",
        ),
        (
            lambda row: row["roll_in_ids"].__setitem__(3, []),
            "row 6, column roll_in_ids, response 3 has no token",
        ),
        (
            lambda row: row["roll_outs_ids"].__setitem__(1, [5, None]),
            "row 6, column roll_outs_ids, response 1 holds a null",
        ),
        (
            lambda row: row["roll_in_ids"].__setitem__(2, [5, 64]),
            "row 6, column roll_in_ids, response 2 holds token id 64; the vocabulary has 64",
        ),
        (
            lambda row: row["roll_outs_ids"].__setitem__(0, [-1]),
            "row 6, column roll_outs_ids, response 0 holds token id -1",
        ),
    ],
)
def test_bad_rows_are_named(rollout_rows, monkeypatch, change, message):
    rows = copy.deepcopy(rollout_rows)
    change(rows[6])
    table = pa.concat_tables([pa.Table.from_pylist(rows[:5]), pa.Table.from_pylist(rows[5:])])
    with pytest.raises(DataError, match=message):
        table_data(monkeypatch, table, vocab_size=64)


def test_bad_tables_are_named(rollout_rows, monkeypatch, tmp_path):
    table = pa.Table.from_pylist(rollout_rows)
    with pytest.raises(DataError, match=r"no column labels; the columns are message_id, problem"):
        table_data(monkeypatch, table.drop_columns(["labels"]))
    with pytest.raises(DataError, match="no rows"):
        table_data(monkeypatch, table.slice(0, 0))
    flat = table.set_column(
        table.column_names.index("roll_in_ids"), "roll_in_ids", table.column("answer")
    )
    with pytest.raises(DataError, match="column roll_in_ids is string, not a list"):
        table_data(monkeypatch, flat)
    monkeypatch.undo()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for source, message in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "broken.parquet", "can't be read"),
    ):
        with pytest.raises(DataError, match=message):
            GroupedRollouts(str(source), NUM_RESPONSES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a save_to_disk folder nor any"):
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


def test_collator_pads_on_the_right_and_masks():
    rollouts = [
        Rollout(np.array([1, 2, 3]), np.array([4, 5]), 2),
        Rollout(np.array([6]), np.array([7, 8, 9]), 1),
    ]
    batch = collate_padded(rollouts, max_length=100)
    assert batch.input_ids.shape == (2, PAD_MULTIPLE)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.long
    assert batch.input_ids[:, :6].tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 0, 0]]
    assert batch.attention_mask[:, :6].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    assert batch.loss_mask[:, :6].long().tolist() == [[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]
    assert batch.attention_mask.sum() == batch.num_tokens == 9
    assert batch.loss_mask.sum() == 5
    assert batch.labels.tolist() == [2, 1]
    assert batch.num_truncated == 0


def test_collator_cuts_long_samples_on_the_right():
    rollouts = [
        Rollout(np.arange(3), np.arange(10, 15), 1),
        Rollout(np.arange(6), np.arange(2), 0),
        Rollout(np.arange(1), np.arange(2), 2),
    ]
    batch = collate_padded(rollouts, max_length=5)
    assert batch.num_truncated == 2
    assert batch.input_ids[0, :6].tolist() == [0, 1, 2, 10, 11, 0]
    assert batch.loss_mask.sum(dim=1).tolist() == [2, 0, 2]
    assert batch.labels.tolist() == [1, 0, 2]


def test_width_is_rounded_up_only_as_needed():
    exact = Rollout(np.zeros(PAD_MULTIPLE - 1, dtype=int), np.zeros(1, dtype=int), 0)
    longer = Rollout(np.zeros(PAD_MULTIPLE, dtype=int), np.zeros(1, dtype=int), 0)
    assert collate_padded([exact], 1000).input_ids.shape[1] == PAD_MULTIPLE
    assert collate_padded([exact, longer], 1000).input_ids.shape[1] == 2 * PAD_MULTIPLE


def test_source_folder_stays_untouched(rollout_folder: Path):
    before = sorted(path.name for path in rollout_folder.iterdir())
    GroupedRollouts(str(rollout_folder), NUM_RESPONSES)
    assert sorted(path.name for path in rollout_folder.iterdir()) == before
