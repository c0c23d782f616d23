"""The scoring command against one whole sequence at a time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import Qwen2Model

from classifier_lib import score, score_files
from classifier_lib.modeling import Qwen2ForClassifier
from data_prep.toy.tokenizer import build_tokenizer
from run_lib.files import lock_file
from tests.support.tiny_models import CONTEXT, save_tiny_classifier, save_tiny_policy

ROOT = Path(score.__file__).parents[1]
PROMPTS = [
    "<|begin|>start 3 +4 *7<think>",
    "start 8 -2<think>",
    "π ≠ 3 <thi",
]  # the last is cut in a token
PIECES = ["3 +4 = 7 ok\n", " hm", "</think>\\boxed{7}<|end|>", "é", "nk>"]
WINDOW = 16


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_classifier(tmp_path_factory.mktemp("score") / "value_model")


@pytest.fixture(scope="module")
def model(model_folder) -> Qwen2ForClassifier:
    return Qwen2ForClassifier.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """As DeepSeek's, this one begins every text with a token, unless told not to."""
    tokenizer = build_tokenizer()
    begin = str(tokenizer.bos_token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    folder = tmp_path_factory.mktemp("score") / "tokenizer"
    tokenizer.save_pretrained(folder)
    return folder


def text_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of text that share prompts; every seventh response is empty, every third has no id."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        response = "".join(rng.choices(PIECES, k=rng.randint(1, 9)))
        rows.append(
            {
                "prompt": rng.choice(PROMPTS),
                "response": "" if index % 7 == 5 else response,
                **({"id": f"row-{index}"} if index % 3 else {}),
            }
        )
    return rows


def token_ids(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt and response ids of a row of text, by a tokenizer that adds nothing."""
    tokenizer = build_tokenizer()
    return tokenizer.encode(row["prompt"]), tokenizer.encode(row["response"])


def id_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "prompt_ids": [rng.randrange(291) for _ in range(rng.randint(1, 20))],
            "response_ids": [rng.randrange(291) for _ in range(rng.randint(0, 60))],
        }
        for _ in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_text()
    assert content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def make_args(model: Path, rows: Path, output: Path, **changes: Any) -> score.ScoreArgs:
    return score.ScoreArgs(
        **{"model": str(model), "input": rows, "output": output, "max_batch_tokens": 200, **changes}
    )


def command(model: Path, rows: Path, output: Path, *flags: str) -> list[str]:
    return ["--model", str(model), "--input", str(rows), "--output", str(output), *flags]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command line is refused with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        score.main(argv)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("score: error: ")
    return line


@pytest.fixture
def finished(model_folder, tmp_path) -> tuple[Path, Path]:
    """Rows of ids and their values, in tokens mode."""
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(40))
    output = tmp_path / "values.jsonl"
    score.score_file(make_args(model_folder, rows, output, at="tokens"), window_rows=WINDOW)
    return rows, output


@pytest.mark.parametrize("at", ["end", "tokens"])
@pytest.mark.parametrize("kind", ["text", "ids"])
def test_values_are_those_of_each_row_alone(
    model, model_folder, tokenizer_folder, tmp_path, kind, at
):
    texts = text_rows(50)
    expected_ids = [token_ids(row) for row in texts]
    # The command must not tokenise the whole, nor let the tokenizer add a token to each part.
    tokenizer = build_tokenizer()
    assert any(
        tokenizer.encode(row["prompt"] + row["response"]) != prompt + response
        for row, (prompt, response) in zip(texts, expected_ids, strict=True)
    )
    rows = texts
    if kind == "ids":
        rows = [
            {"prompt_ids": prompt, "response_ids": response, "prompt": "not this", **identity}
            for row, (prompt, response) in zip(texts, expected_ids, strict=True)
            for identity in [{"id": row["id"]} if "id" in row else {}]
        ]
    args = make_args(
        model_folder,
        write_rows(tmp_path / "rows.jsonl", rows),
        tmp_path / "deep" / "values.jsonl",
        at=at,
        tokenizer=str(tokenizer_folder) if kind == "text" else None,
    )
    summary = score.score_file(args, window_rows=WINDOW)
    assert (summary.num_rows, summary.num_bad, summary.first_bad) == (50, 0, [])
    lines = read_rows(args.output)
    assert [line["index"] for line in lines] == list(range(50))
    assert [line["id"] for line in lines] == [row.get("id", i) for i, row in enumerate(rows)]
    for line, (prompt, response) in zip(lines, expected_ids, strict=True):
        with torch.no_grad():
            probs = model(torch.tensor([prompt + response])).success_probs[0].tolist()
        assert line["value"] == pytest.approx(probs[-1], abs=1e-5)
        assert line["value"] == round(line["value"], 6)
        assert line["num_tokens"] == len(probs)
        if at == "tokens":
            assert line["values"] == pytest.approx(probs[len(prompt) :], abs=1e-5)
        assert line.keys() == {"id", "index", "value", "num_tokens"} | (
            {"values"} if at == "tokens" else set()
        )
    assert len({line["value"] for line in lines}) > 20  # the model tells the rows apart


def test_one_half_of_a_row_may_be_text_and_the_other_ids(model_folder, tokenizer_folder, tmp_path):
    text = text_rows(8)
    mixed = [{"prompt": row["prompt"], "response_ids": token_ids(row)[1]} for row in text]
    outputs = []
    for name, rows in (("text", text), ("mixed", mixed)):
        path = write_rows(tmp_path / name, rows)
        outputs.append(tmp_path / f"{name}.jsonl")
        args = make_args(model_folder, path, outputs[-1], tokenizer=str(tokenizer_folder))
        score.score_file(args)
    values = [[line["value"] for line in read_rows(output)] for output in outputs]
    assert values[0] == values[1]


def test_the_model_folder_may_hold_the_tokenizer(model_folder, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(model_folder, folder)
    build_tokenizer().save_pretrained(folder)
    rows = text_rows(5)
    output = tmp_path / "values.jsonl"
    score.main(command(folder, write_rows(tmp_path / "rows.jsonl", rows), output))
    expected = [len(prompt) + len(response) for prompt, response in map(token_ids, rows)]
    assert [line["num_tokens"] for line in read_rows(output)] == expected


@pytest.mark.parametrize("at", ["end", "tokens"])
def test_batches_keep_to_the_limit_and_hold_little_padding(model_folder, tmp_path, monkeypatch, at):
    rows = id_rows(120)
    long = {"prompt_ids": [1] * 90, "response_ids": [2] * 30}
    path = write_rows(tmp_path / "rows.jsonl", [*rows, long])
    shapes: list[torch.Size] = []
    heads: list[int] = []
    forward, head = Qwen2Model.forward, score.success_probabilities

    def record_forward(self, input_ids, **kwargs):
        assert kwargs.get("attention_mask") is None
        shapes.append(input_ids.shape)
        return forward(self, input_ids=input_ids, **kwargs)

    def record_head(logits: torch.Tensor) -> torch.Tensor:
        heads.append(logits.shape[:-1].numel())
        return head(logits)

    monkeypatch.setattr(Qwen2Model, "forward", record_forward)
    monkeypatch.setattr(score, "success_probabilities", record_head)
    args = make_args(model_folder, path, tmp_path / "o.jsonl", max_batch_tokens=110, at=at)
    score.score_file(args)
    assert [shape for shape in shapes if shape.numel() > 110] == [(1, 120)]
    assert sum(shape[0] for shape in shapes) == 121
    num_tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in [*rows, long])
    assert sum(shape.numel() for shape in shapes) < 1.1 * num_tokens
    num_valued = 121 if at == "end" else sum(max(1, len(row["response_ids"])) for row in rows) + 30
    assert sum(heads) == num_valued


def test_windows_are_bounded_in_rows_and_bytes_and_read_as_they_are_used(tmp_path):
    path = tmp_path / "rows"
    lines = [b"\n"] * 13 + [b"x" * (i % 5) + b"\n" for i in range(27)] + [b"y" * 30 + b"\n", b"z"]
    path.write_bytes(b"".join(lines))
    windows = list(score_files.read_windows(path, window_rows=6, window_bytes=12))
    assert [line for window in windows for line in window] == lines
    assert all(len(w) <= 6 and (len(w) == 1 or sum(map(len, w)) <= 12) for w in windows)
    assert {len(w) for w in windows} >= {1, 4, 6}
    assert [len(w) for w in score_files.read_windows(path, 20, 1000)] == [20, 20, 2]
    lazy = score_files.read_windows(path, window_rows=6, window_bytes=12)
    assert next(lazy) == windows[0]
    with path.open("ab") as file:
        file.write(b"\nlate\n")
    assert list(lazy)[-1][-1] == b"late\n"


def test_a_killed_run_goes_on_to_the_same_bytes(model_folder, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(300))
    undisturbed = make_args(model_folder, rows, tmp_path / "undisturbed.jsonl", at="tokens")
    score.score_file(undisturbed, window_rows=WINDOW)
    killed = make_args(model_folder, rows, tmp_path / "killed.jsonl", at="tokens")
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
    flags = [str(model_folder), str(rows), str(killed.output), str(WINDOW)]
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


def test_whatever_a_kill_left_the_rest_is_the_same_and_nothing_is_done_twice(
    finished, model_folder, monkeypatch
):
    rows, output = finished
    expected = output.read_bytes()
    lines = expected.splitlines(keepends=True)
    ends = [len(b"".join(lines[:n])) for n in range(41)]
    computed: list[int] = []
    forward_values = score.forward_values

    def count(model, sequences, firsts):
        computed.append(len(sequences))
        return forward_values(model, sequences, firsts)

    monkeypatch.setattr(score, "forward_values", count)
    args = make_args(model_folder, rows, output, at="tokens")
    for size, first_missing in (
        (0, 0),
        (ends[1] - 1, 0),  # all of a line but its end
        (ends[5] + 3, 5),
        (ends[WINDOW], WINDOW),
        (ends[WINDOW + 4] + 20, WINDOW + 4),
        (ends[40] - 2, 39),
    ):
        # A file system may have the length of what was written, but not its content.
        for torn in (b"", b"\0" * 100, b"\0" * 100 + b"\n" + lines[-1]):
            output.write_bytes(expected[:size] + torn)
            computed.clear()
            summary = score.score_file(args, window_rows=WINDOW)
            assert output.read_bytes() == expected
            assert summary.num_rows == 40
            # Its window is computed anew, so that its batches are what they were.
            assert sum(computed) == 40 - first_missing // WINDOW * WINDOW


def test_a_finished_run_is_left_as_it_is_without_loading_a_model(
    finished, model_folder, monkeypatch, capsys
):
    rows, output = finished
    before = output.read_bytes()
    monkeypatch.setattr(score, "load", None)
    score.main(command(model_folder, rows, output, "--at", "tokens"))
    assert output.read_bytes() == before
    assert f"40 of 40 rows have a value: {output}" in capsys.readouterr().out


def test_another_run_does_not_mix_its_values_in(
    finished, model_folder, tokenizer_folder, tmp_path, capsys
):
    rows, output = finished
    output.write_bytes(output.read_bytes()[:1000])
    before = output.read_bytes()
    other_model = save_tiny_classifier(tmp_path / "other_model", seed=5)
    other_rows = tmp_path / "other_rows.jsonl"
    other_rows.write_bytes(rows.read_bytes() + b"{}\n")
    tokens = ["--at", "tokens"]
    for argv, message in (
        (command(other_model, rows, output, *tokens), f"--model (was {model_folder}, now"),
        (command(model_folder, other_rows, output, *tokens), f"--input (was {rows}, now"),
        (command(model_folder, rows, output), "--at (was tokens, now end)"),
        (
            command(model_folder, rows, output, *tokens, "--dtype", "bfloat16"),
            "--dtype (was float32, now bfloat16)",
        ),
        (
            command(model_folder, rows, output, *tokens, "--max_length", "100"),
            "--max_length (was None, now 100)",
        ),
        (
            command(model_folder, rows, output, *tokens, "--tokenizer", str(tokenizer_folder)),
            f"--tokenizer (was None, now {tokenizer_folder})",
        ),
    ):
        line = error_of(argv, capsys)
        assert f"{output} is of another run; differing: {message}" in line
        assert line.count("(") == 1
        assert output.read_bytes() == before


def test_a_corrected_row_in_the_middle_of_a_large_input_is_noticed(model_folder, tmp_path, capsys):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "values.jsonl"
    blank = b" " * (3 * 2**19)
    content = [json.dumps(row).encode() for row in id_rows(3)]
    rows.write_bytes(blank + b"\n".join(content) + blank)
    score.main(command(model_folder, rows, output))
    before = output.read_bytes()
    middle = content[1].index(b"[") + 1  # one digit of one token
    content[1] = content[1][:middle] + b"9" + content[1][middle + 1 :]
    rows.write_bytes(blank + b"\n".join(content) + blank)
    line = error_of(command(model_folder, rows, output), capsys)
    assert "differing: --input (its content has changed). " in line
    assert output.read_bytes() == before


def test_a_retrained_model_is_refused_and_a_moved_one_is_not(
    finished, model_folder, tmp_path, capsys
):
    rows, output = finished
    expected = output.read_bytes()
    output.write_bytes(expected[:1000])
    moved = tmp_path / "moved"
    shutil.copytree(model_folder, moved)
    argv = command(moved, rows, output, "--at", "tokens", "--max_batch_tokens", "77")
    weights_file = moved / "model.safetensors"
    original = weights_file.read_bytes()
    weights = load_file(weights_file)
    save_file(weights | {"score.2.weight": -weights["score.2.weight"]}, tmp_path / "retrained")
    shutil.copy(tmp_path / "retrained", weights_file)
    assert f"--model (was {model_folder}, now {moved})" in error_of(argv, capsys)
    assert output.read_bytes() == expected[:1000]
    # The same files elsewhere are the same model, and batches are of no account.
    weights_file.write_bytes(original)
    score.main(argv)
    assert len(read_rows(output)) == 40


def test_files_that_it_did_not_write_are_left_alone(finished, model_folder, tmp_path, capsys):
    rows, output = finished
    config = output.with_name("values.jsonl.config.json")
    argv = command(model_folder, rows, output, "--at", "tokens")
    lines = output.read_bytes().splitlines(keepends=True)
    for content in (b"".join([lines[0], lines[2]]), b"".join([*lines, lines[0]]), b"{}\n"):
        output.write_bytes(content)
        assert "not what this command writes" in error_of(argv, capsys)
        assert output.read_bytes() == content
    config.write_text("{")
    assert f"{config} is damaged" in error_of(argv, capsys)
    config.unlink()
    assert f"{output} is not empty, and no {config.name}" in error_of(argv, capsys)
    assert output.read_bytes() == content
    assert not config.exists()
    argv = command(model_folder, rows, rows)
    original = rows.read_bytes()
    assert f"{rows} is not empty" in error_of(argv, capsys)
    assert rows.read_bytes() == original


def test_one_run_at_a_time_writes_a_file(finished, model_folder, capsys):
    rows, output = finished
    argv = command(model_folder, rows, output, "--at", "tokens")
    lock = lock_file(output.with_name(".values.jsonl.lock"))
    assert f"another process is writing {output}" in error_of(argv, capsys)
    lock.close()
    score.main(argv)


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


def test_bad_rows_have_an_error_and_their_neighbours_a_value(
    model_folder, tokenizer_folder, tmp_path, capsys
):
    path, output = tmp_path / "rows.jsonl", tmp_path / "values.jsonl"
    good = b'{"id": "\\ud800\\u2028", "prompt": "start 3", "response": " hm"}'
    lines = [line for bad, _, _ in BAD_ROWS for line in (bad, good)]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([good, *lines]))  # from Windows; no last end
    argv = command(model_folder, path, output, "--tokenizer", str(tokenizer_folder))
    score.main(argv)
    records = read_rows(output)
    assert len(records) == 2 * len(BAD_ROWS) + 1
    for record in records[::2]:
        assert record["id"] == "\ud800\u2028"
        assert record["value"] == records[0]["value"] is not None
    for position, (record, (_, row_id, message)) in enumerate(
        zip(records[1::2], BAD_ROWS, strict=True)
    ):
        index = 2 * position + 1
        assert message in record.pop("error")
        assert record == {"id": row_id or index, "index": index, "value": None}
    captured = capsys.readouterr()
    assert f"{len(BAD_ROWS) + 1} of {len(records)} rows have a value" in captured.out
    (warning,) = captured.err.splitlines()
    assert warning.startswith(f"score: warning: rows without a value: {len(BAD_ROWS)}: index 1: ")
    assert [f"index {i}:" in warning for i in (3, 5, 7, 9, 11)] == [True] * 4 + [False]

    # A run that goes on names them all the same.
    output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:9]))
    score.main(argv)
    assert capsys.readouterr().err.splitlines() == [warning]


@pytest.mark.parametrize(
    ("flags", "limit", "name"),
    [
        ([], CONTEXT, "the model's context"),
        (["--max_length", "50"], 50, "the --max_length"),
        (["--max_length", "1000"], CONTEXT, "the model's context"),
    ],
)
def test_rows_that_are_too_long_are_not_cut(model_folder, tmp_path, flags, limit, name):
    rows = [{"prompt_ids": [1] * 9, "response_ids": [2] * (limit - 9 + k)} for k in (0, 1)]
    output = tmp_path / "values.jsonl"
    score.main(command(model_folder, write_rows(tmp_path / "rows", rows), output, *flags))
    longest, too_long = read_rows(output)
    assert longest["num_tokens"] == limit
    assert longest["value"] is not None
    assert too_long["error"] == f"{limit + 1} tokens, more than {name} of {limit}"


def test_a_file_without_any_good_row_ends_with_status_1(model_folder, tmp_path, capsys):
    path = write_rows(tmp_path / "rows.jsonl", [{"id": i} for i in range(3)])
    with pytest.raises(SystemExit) as exit_info:
        score.main(command(model_folder, path, tmp_path / "values.jsonl"))
    assert exit_info.value.code == 1
    captured = capsys.readouterr()
    assert "0 of 3 rows have a value" in captured.out
    assert "; ..." not in captured.err


def test_values_that_are_no_numbers_are_errors_of_their_rows(model_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][7] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    rows = [{"prompt_ids": [1, 2, token], "response_ids": [3]} for token in (6, 7, 8)]
    output = tmp_path / "values.jsonl"
    score.main(command(broken, write_rows(tmp_path / "rows.jsonl", rows), output))
    first, second, third = read_rows(output)
    assert 0 < first["value"] < 1
    assert 0 < third["value"] < 1
    assert second["value"] is None
    assert second["error"] == "the model gives no finite value"


def test_too_little_memory_names_the_flag_or_the_row(model_folder, tmp_path, monkeypatch, capsys):
    rows = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt_ids": [1], "response_ids": [2] * n} for n in (3, 100, 4, 5)],
    )
    forward = Qwen2Model.forward

    def with_little_memory(self, input_ids, **kwargs):
        if input_ids.numel() > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(Qwen2Model, "forward", with_little_memory)
    output = tmp_path / "values.jsonl"
    line = error_of(command(model_folder, rows, output, "--max_batch_tokens", "20"), capsys)
    assert "out of memory: the same command with a smaller --max_batch_tokens (now 20)" in line
    assert not output.exists()
    score.main(command(model_folder, rows, output, "--max_batch_tokens", "12"))
    records = read_rows(output)
    assert records[1]["error"] == "out of memory at 101 tokens"
    assert [record["value"] is None for record in records] == [False, True, False, False]


def test_text_needs_a_tokenizer_and_ids_do_not(model_folder, tokenizer_folder, tmp_path, capsys):
    texts = write_rows(tmp_path / "texts.jsonl", text_rows(3))
    output = tmp_path / "values.jsonl"
    line = error_of(command(model_folder, texts, output), capsys)
    assert f"--input {texts} holds text, and there is no tokenizer in {model_folder}" in line
    assert line.endswith("--tokenizer")
    assert not output.exists()
    score.main(command(model_folder, texts, output, "--tokenizer", str(tokenizer_folder)))
    assert len(read_rows(output)) == 3

    # Far into a file of ids, one row of text ends nothing.
    id_and_empty = {"prompt_ids": [1], "response": ""}
    first_window = [*id_rows(WINDOW - 1), id_and_empty]
    rows = write_rows(tmp_path / "rows.jsonl", [*first_window, *text_rows(1)])
    args = make_args(model_folder, rows, tmp_path / "ids.jsonl")
    summary = score.score_file(args, window_rows=WINDOW)
    assert summary.num_bad == 1
    assert summary.first_bad[0] == (WINDOW, score_files.RowParser.NO_TOKENIZER)


def test_a_tokenizer_that_cannot_be_used_is_refused(model_folder, tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(2))
    output = tmp_path / "values.jsonl"

    def refused(model: Path, *flags: str) -> str:
        line = error_of(command(model, rows, output, *flags), capsys)
        assert not output.exists()
        assert not output.with_name("values.jsonl.config.json").exists()
        return line

    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"--tokenizer {empty}: no tokenizer" in refused(model_folder, "--tokenizer", str(empty))
    # transformers makes an empty Qwen2Tokenizer of such a folder, without a word
    message = f"--tokenizer {model_folder}: no tokenizer"
    assert message in refused(model_folder, "--tokenizer", str(model_folder))

    policy = str(save_tiny_policy(tmp_path / "policy"))
    for size in (290, 2000):
        other = save_tiny_classifier(tmp_path / f"vocabulary_{size}", vocab_size=size)
        line = refused(other, "--tokenizer", policy)
        assert (
            f"--tokenizer {policy}, --model {other}: the model has a vocabulary of {size}" in line
        )
        assert "the tokenizer one of 291" in line

    damaged = tmp_path / "damaged"
    shutil.copytree(model_folder, damaged)
    for content in ('{"version": ', '{"version": "1.0"}', "[]"):
        (damaged / "tokenizer.json").write_text(content)
        assert f"--tokenizer {damaged}: no tokenizer could be loaded: " in refused(damaged)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "absent.jsonl"], "--input absent.jsonl does not exist"),
        (["--input", "."], "--input . is not a regular file"),
        (["--input", "empty.jsonl"], "--input empty.jsonl is empty"),
        (["--max_batch_tokens", "0"], "--max_batch_tokens must be positive, got 0"),
        (["--max_length", "-1"], "--max_length must be positive, got -1"),
        (["--model", "/absent"], "--model /absent: no model could be loaded"),
        (["--model", "policy"], "--model policy is no value model: no weights for score.0.weight"),
        (["--model", "torn"], "--model torn: no model could be loaded"),
        (["--attention_impl", "nonsense"], "--model value_model: "),
        (
            ["--attention_impl", "flash_attention_2"],
            "--attention_impl flash_attention_2 needs --dtype bfloat16",
        ),
        (["--output", "empty.jsonl/values.jsonl"], "empty.jsonl"),
    ],
)
def test_errors_are_one_line(model_folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(score, "is_flash_attn_2_available", lambda: True)
    shutil.copytree(model_folder, "value_model")
    shutil.copytree(model_folder, "torn")
    weights = Path("torn/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    save_tiny_policy(Path("policy"))
    Path("empty.jsonl").touch()
    rows = write_rows(Path("rows.jsonl"), id_rows(2))
    argv = command(Path("value_model"), rows, Path("values.jsonl"), *flags)
    assert message in error_of(argv, capsys)
    assert not Path("values.jsonl").exists()


def test_bfloat16_computes_in_bfloat16(finished, model, model_folder, tmp_path):
    rows, output = finished
    coarse = tmp_path / "coarse.jsonl"
    score.main(command(model_folder, rows, coarse, "--dtype", "bfloat16"))
    fine = [line["value"] for line in read_rows(output)]
    values = [line["value"] for line in read_rows(coarse)]
    assert values == pytest.approx(fine, abs=0.1)
    assert values != pytest.approx(fine, abs=1e-5)


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as exit_info:
        score.main(["--help"])
    assert exit_info.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    flags = ["model", "input", "output", "tokenizer", "at", "max_length", "max_batch_tokens"]
    for flag in [*flags, "attention_impl", "dtype"]:
        assert f"--{flag} " in text
    assert "python -m classifier_lib.score --model" in text
    for phrase in ("by default the model's folder", "padding included", "no template is applied"):
        assert phrase in text
