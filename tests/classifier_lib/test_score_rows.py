"""The scoring command's bad rows: each has its error, and its neighbours have their values."""

from pathlib import Path
from typing import Any

import pytest

from classifier_lib import score
from tests.support.score_command import command, read_rows, write_rows

GOOD_ROW = b'{"id": "\\ud800\\u2028", "prompt": "start 3", "response": " hm"}'
BAD_ROWS: list[tuple[bytes, object, str]] = [
    (b"nope", 0, "not valid JSON: Expecting value"),
    (b"", 0, "not valid JSON"),
    (b'{"prompt_ids": [1], "response_ids": [2]', 0, "not valid JSON"),
    (b'{"prompt": "\xff"}', 0, "not valid JSON"),
    (b"[" * 100_000, 0, "not valid JSON"),
    (b"[1, 2]", 0, "not a JSON object"),
    (b'{"id": "x", "response": ""}', "x", "neither prompt nor prompt_ids is there"),
    (b'{"id": 7, "prompt_ids": [1]}', 7, "neither response nor response_ids is there"),
    (b'{"prompt": 3, "response": ""}', 0, "prompt is not a text"),
    (b'{"prompt": "a", "response": ["b"]}', 0, "response is not a text"),
    (b'{"prompt": "a", "response": "\\ud800"}', 0, "response is not valid Unicode"),
    (b'{"prompt_ids": "12", "response_ids": []}', 0, "prompt_ids is not a list of integers"),
    (b'{"prompt_ids": [1], "response_ids": [2.0]}', 0, "response_ids is not a list of integers"),
    (b'{"prompt_ids": [true], "response_ids": []}', 0, "prompt_ids is not a list of integers"),
    (b'{"prompt_ids": [1], "response_ids": [-1]}', 0, "holds token id -1; the vocabulary has 291"),
    (b'{"prompt_ids": [5, 291], "response_ids": []}', 0, "prompt_ids holds token id 291"),
    (b'{"prompt_ids": [], "response_ids": [1]}', 0, "the prompt is empty"),
    (b'{"prompt": "", "response": "a"}', 0, "the prompt is empty"),
    (b'{"id": [1], "prompt": "a", "response": ""}', 0, "id is neither a string nor a number"),
    (b'{"id": 1e999, "prompt": "a", "response": ""}', 0, "id is not a finite number"),
    (b'{"id": NaN, "prompt": "a", "response": ""}', 0, "id is not a finite number"),
]
NUM_ROWS = 2 * len(BAD_ROWS) + 1


@pytest.fixture
def bad_rows(value_model_folder, tokenizer_folder, tmp_path) -> list[str]:
    """The command line on a file in which every second row is bad."""
    path = tmp_path / "rows.jsonl"
    lines = [line for bad, _, _ in BAD_ROWS for line in (bad, GOOD_ROW)]
    # From Windows, and the last line without its end.
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([GOOD_ROW, *lines]))
    flags = ["--tokenizer", str(tokenizer_folder)]
    return command(value_model_folder, path, tmp_path / "values.jsonl", *flags)


@pytest.fixture
def records(bad_rows, tmp_path) -> list[dict[str, Any]]:
    score.main(bad_rows)
    return read_rows(tmp_path / "values.jsonl")


def test_bad_rows_have_an_error(records):
    assert len(records) == NUM_ROWS
    for index, (_, row_id, message) in zip(range(1, NUM_ROWS, 2), BAD_ROWS, strict=True):
        record = records[index]
        assert message in record.pop("error")
        assert record == {"id": row_id or index, "index": index, "value": None}


def test_their_neighbours_have_a_value(records):
    for record in records[::2]:
        assert record["id"] == "\ud800\u2028"
        assert record["value"] == records[0]["value"] is not None


def check_summary(captured: Any) -> None:
    assert f"{len(BAD_ROWS) + 1} of {NUM_ROWS} rows have a value" in captured.out
    (warning,) = captured.err.splitlines()
    beginning = f"warning: rows without a value: {len(BAD_ROWS)}: index 1: "
    assert warning.startswith(f"classifier_lib.score: {beginning}")
    assert [f"index {i}:" in warning for i in (3, 5, 7, 9, 11)] == [True] * 4 + [False]


def test_the_first_bad_rows_are_named_at_the_end(bad_rows, capsys):
    score.main(bad_rows)
    check_summary(capsys.readouterr())


def test_a_run_that_goes_on_names_them_all_the_same(bad_rows, tmp_path, capsys):
    score.main(bad_rows)
    output: Path = tmp_path / "values.jsonl"
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:9]))
    capsys.readouterr()
    score.main(bad_rows)
    check_summary(capsys.readouterr())


def test_a_file_without_any_good_row_ends_with_status_1(value_model_folder, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", [{"id": i} for i in range(3)])
    with pytest.raises(SystemExit) as exit_info:
        score.main(command(value_model_folder, path, tmp_path / "values.jsonl"))
    assert exit_info.value.code == 1
    captured = capsys.readouterr()
    assert "0 of 3 rows have a value" in captured.out
    assert "; ..." not in captured.err
