"""The scoring command's files: bad rows, kills, and values of other settings."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from classifier_lib import score
from classifier_lib.score_files import digest_lines, read_windows
from run_lib.files import lock_file
from tests.support.paths import ROOT
from tests.support.score_command import (
    WINDOW,
    command,
    id_rows,
    make_args,
    read_rows,
    write_rows,
)
from tests.support.tiny_models import save_tiny_classifier

TOKENS = ("--at", "tokens")


# Windows of rows.


def test_windows_are_bounded_in_rows_and_bytes(tmp_path):
    path = tmp_path / "rows"
    lines = [b"\n"] * 13 + [b"x" * (i % 5) + b"\n" for i in range(27)] + [b"y" * 30 + b"\n", b"z"]
    path.write_bytes(b"".join(lines))
    windows = list(read_windows(path, window_rows=6, window_bytes=12))
    assert [line for window in windows for line in window] == lines
    assert all(len(w) <= 6 and (len(w) == 1 or sum(map(len, w)) <= 12) for w in windows)
    assert {len(w) for w in windows} >= {1, 4, 6}
    assert [len(w) for w in read_windows(path, 20, 1000)] == [20, 20, 2]


def test_windows_are_read_as_they_are_used(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"x\n" * 20)
    windows = read_windows(path, window_rows=6, window_bytes=12)
    assert next(windows) == [b"x\n"] * 6
    with path.open("ab") as file:
        file.write(b"late\n")
    assert list(windows)[-1][-1] == b"late\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\n", b"\r\n\r\n"])
def test_blank_lines_at_the_end_are_no_rows(tmp_path, end):
    path = tmp_path / "rows"
    path.write_bytes(b"a\n\nb\n" + end)
    assert list(read_windows(path, window_rows=2)) == [[b"a\n", b"\n"], [b"b\n"]]
    assert digest_lines(path)[1] == 3


def test_a_file_of_blank_lines_has_no_rows(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"\n\r\n")
    assert list(read_windows(path)) == []
    assert digest_lines(path)[1] == 0


# Kills.


def test_a_killed_run_goes_on_to_the_same_bytes(value_model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(300))
    undisturbed = make_args(value_model_folder, rows, tmp_path / "undisturbed.jsonl", at="tokens")
    score.score_file(undisturbed, window_rows=WINDOW)
    killed = make_args(value_model_folder, rows, tmp_path / "killed.jsonl", at="tokens")
    child = """
import sys
from pathlib import Path
from classifier_lib import score
from classifier_lib.score_files import OutputFile

append = OutputFile.append

def report(self, records):
    append(self, records)
    print("lines", self.num_lines, flush=True)
    if self.num_lines >= 160:
        sys.stdin.read()  # never finishes before the kill comes

OutputFile.append = report
model, rows, output, window = sys.argv[1:]
args = score.ScoreArgs(model, Path(rows), Path(output), at="tokens", max_batch_tokens=200)
score.score_file(args, window_rows=int(window))
"""
    flags = [str(value_model_folder), str(rows), str(killed.output), str(WINDOW)]
    with subprocess.Popen(
        [sys.executable, "-c", child, *flags],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == f"lines {3 * WINDOW}\n":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    left = killed.output.read_bytes()
    assert 3 * WINDOW <= left.count(b"\n") < 300
    expected = undisturbed.output.read_bytes()
    assert expected.startswith(left)
    score.score_file(killed, window_rows=WINDOW)
    assert killed.output.read_bytes() == expected


@pytest.mark.parametrize(
    ("num_whole", "more"),
    [(0, 0), (0, -1), (5, 3), (WINDOW, 0), (WINDOW + 4, 20), (39, -2)],
    ids=["nothing", "all but a line's end", "torn", "window", "in window", "last"],
)
# A file system may have the length of what was written, but not its content.
@pytest.mark.parametrize("zeros", ["", "zeros", "zeros and a line"])
def test_the_rest_is_the_same_and_nothing_is_done_twice(
    finished, value_model_folder, monkeypatch, num_whole, more, zeros
):
    rows, output = finished
    expected = output.read_bytes()
    lines = expected.splitlines(keepends=True)
    size = len(b"".join(lines[: num_whole + (more < 0)])) + more
    torn = {"": b"", "zeros": b"\0" * 100, "zeros and a line": b"\0" * 100 + b"\n" + lines[-1]}
    output.write_bytes(expected[:size] + torn[zeros])
    computed: list[int] = []
    forward_values = score.forward_values

    def count(model, sequences, firsts):
        computed.append(len(sequences))
        return forward_values(model, sequences, firsts)

    monkeypatch.setattr(score, "forward_values", count)
    args = make_args(value_model_folder, rows, output, at="tokens")
    summary = score.score_file(args, window_rows=WINDOW)
    assert output.read_bytes() == expected
    assert summary.num_rows == 40
    # Its window is computed anew, so that its batches are what they were.
    assert sum(computed) == 40 - num_whole // WINDOW * WINDOW


def test_a_finished_run_is_left_as_it_is_without_loading_a_model(
    finished, value_model_folder, monkeypatch, capsys
):
    rows, output = finished
    before = output.read_bytes()
    monkeypatch.setattr(score, "load", None)
    score.main(command(value_model_folder, rows, output, *TOKENS))
    assert output.read_bytes() == before
    assert f"40 of 40 rows have a value: {output}" in capsys.readouterr().out


def test_one_run_at_a_time_writes_a_file(finished, value_model_folder, score_error):
    rows, output = finished
    argv = command(value_model_folder, rows, output, *TOKENS)
    with lock_file(output.with_name(".values.jsonl.lock"), "busy"):
        assert f"another process is writing {output}" in score_error(argv)
    score.main(argv)


# Other settings.


def test_the_settings_are_saved_beside_the_values(finished, value_model_folder):
    rows, output = finished
    document = json.loads(output.with_name("values.jsonl.config.json").read_text())
    fingerprints = document.pop("fingerprints")
    assert document == {
        "model": str(value_model_folder),
        "input": str(rows),
        "output": str(output),
        "tokenizer": None,
        "at": "tokens",
        "max_length": None,
        "max_batch_tokens": 200,
        "attention_impl": "sdpa",
        "dtype": "float32",
    }
    assert {name: len(digest or "") for name, digest in fingerprints.items()} == {
        "model": 64,
        "input": 64,
        "tokenizer": 0,
    }


def check_refused(line: str, output: Path, difference: str) -> None:
    beginning = f"{output} was made with other settings: {difference}"
    assert beginning in line
    assert line.count("(") == 1
    assert line.endswith(". Give this run another --output")


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        ((), "--at (was 'tokens', now 'end')"),
        ((*TOKENS, "--dtype", "bfloat16"), "--dtype (was 'float32', now 'bfloat16')"),
        ((*TOKENS, "--max_length", "100"), "--max_length (was None, now 100)"),
    ],
)
def test_values_of_other_flags_are_not_mixed_in(
    finished, value_model_folder, score_error, flags, difference
):
    rows, output = finished
    output.write_bytes(output.read_bytes()[:1000])
    line = score_error(command(value_model_folder, rows, output, *flags))
    check_refused(line, output, difference)
    assert output.stat().st_size == 1000


def test_values_of_another_model_are_not_mixed_in(
    finished, value_model_folder, tmp_path, score_error
):
    rows, output = finished
    other = save_tiny_classifier(tmp_path / "other_model", seed=5)
    line = score_error(command(other, rows, output, *TOKENS))
    check_refused(line, output, f"--model (was '{value_model_folder}', now '{other}')")


def test_values_of_another_tokenizer_are_not_mixed_in(
    finished, value_model_folder, tokenizer_folder, score_error
):
    rows, output = finished
    flags = (*TOKENS, "--tokenizer", str(tokenizer_folder))
    line = score_error(command(value_model_folder, rows, output, *flags))
    check_refused(line, output, f"--tokenizer (was None, now '{tokenizer_folder}')")


def test_values_of_other_rows_are_not_mixed_in(finished, value_model_folder, tmp_path, score_error):
    rows, output = finished
    other = tmp_path / "other_rows.jsonl"
    other.write_bytes(rows.read_bytes() + b"{}\n")
    line = score_error(command(value_model_folder, other, output, *TOKENS))
    check_refused(line, output, f"--input (was '{rows}', now '{other}')")


def test_a_corrected_row_in_the_middle_of_a_large_input_is_noticed(
    value_model_folder, tmp_path, score_error
):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "values.jsonl"
    blank = b" " * (3 * 2**19)
    content = [json.dumps(row).encode() for row in id_rows(3)]
    rows.write_bytes(blank + b"\n".join(content) + blank)
    score.main(command(value_model_folder, rows, output))
    before = output.read_bytes()
    middle = content[1].index(b"[") + 1  # one digit of one token
    content[1] = content[1][:middle] + b"9" + content[1][middle + 1 :]
    rows.write_bytes(blank + b"\n".join(content) + blank)
    line = score_error(command(value_model_folder, rows, output))
    check_refused(line, output, "--input (its content has changed)")
    assert output.read_bytes() == before


def test_a_retrained_model_is_refused(finished, value_model_folder, tmp_path, score_error):
    rows, output = finished
    retrained = tmp_path / "retrained"
    shutil.copytree(value_model_folder, retrained)
    weights = load_file(value_model_folder / "model.safetensors")
    weights["score.2.weight"] = -weights["score.2.weight"]
    save_file(weights, retrained / "model.safetensors")
    line = score_error(command(retrained, rows, output, *TOKENS))
    check_refused(line, output, f"--model (was '{value_model_folder}', now '{retrained}')")


def test_a_moved_model_and_other_batches_go_on(finished, value_model_folder, tmp_path):
    rows, output = finished
    output.write_bytes(output.read_bytes()[:1000])
    moved = tmp_path / "moved"
    shutil.copytree(value_model_folder, moved)
    score.main(command(moved, rows, output, *TOKENS, "--max_batch_tokens", "77"))
    assert len(read_rows(output)) == 40


# Files of others.


@pytest.mark.parametrize("kind", ["a line is missing", "a line too many", "no record"])
def test_lines_that_it_did_not_write_are_left_alone(
    finished, value_model_folder, score_error, kind
):
    rows, output = finished
    lines = output.read_bytes().splitlines(keepends=True)
    content = {
        "a line is missing": b"".join([lines[0], lines[2]]),
        "a line too many": b"".join([*lines, lines[0]]),
        "no record": b"{}\n",
    }[kind]
    output.write_bytes(content)
    line = score_error(command(value_model_folder, rows, output, *TOKENS))
    assert "not what this command writes" in line
    assert output.read_bytes() == content


def test_damaged_settings_are_named(finished, value_model_folder, score_error):
    rows, output = finished
    config = output.with_name("values.jsonl.config.json")
    for content in ("{", "{}"):
        config.write_text(content)
        line = score_error(command(value_model_folder, rows, output, *TOKENS))
        assert f"{config} is damaged" in line


def test_values_of_unknown_settings_are_left_alone(finished, value_model_folder, score_error):
    rows, output = finished
    before = output.read_bytes()
    config = output.with_name("values.jsonl.config.json")
    config.unlink()
    line = score_error(command(value_model_folder, rows, output, *TOKENS))
    assert f"{output} is not empty, and no {config.name}" in line
    assert output.read_bytes() == before
    assert not config.exists()


def test_the_input_is_no_output(value_model_folder, tmp_path, score_error):
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(2))
    before = rows.read_bytes()
    assert f"{rows} is not empty" in score_error(command(value_model_folder, rows, rows))
    assert rows.read_bytes() == before
