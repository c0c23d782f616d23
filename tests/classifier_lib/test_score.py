"""The scoring command against one whole sequence at a time."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Model

from classifier_lib import score, scoring
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.score_files import RowParser
from data_prep.toy.tokenizer import build_tokenizer
from tests.support.score_command import (
    WINDOW,
    command,
    id_rows,
    make_args,
    read_rows,
    text_rows,
    token_ids,
    write_rows,
)
from tests.support.tiny_models import CONTEXT, save_tiny_classifier, save_tiny_policy


@pytest.fixture(scope="module")
def model(value_model_folder) -> Qwen2ForClassifier:
    return Qwen2ForClassifier.from_pretrained(value_model_folder)


# Values.


@pytest.mark.parametrize("at", ["end", "tokens"])
@pytest.mark.parametrize("kind", ["text", "ids"])
def test_values_are_those_of_each_row_alone(
    model, value_model_folder, tokenizer_folder, tmp_path, kind, at
):
    texts = text_rows(50)
    expected_ids = [token_ids(row) for row in texts]
    rows = texts
    if kind == "ids":
        rows = [
            {"prompt_ids": prompt, "response_ids": response, "prompt": "not this", **identity}
            for row, (prompt, response) in zip(texts, expected_ids, strict=True)
            for identity in [{"id": row["id"]} if "id" in row else {}]
        ]
    args = make_args(
        value_model_folder,
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
        expected = {"id": line["id"], "index": line["index"], "num_tokens": len(probs)}
        expected["value"] = pytest.approx(probs[-1], abs=1e-5)
        if at == "tokens":
            expected["values"] = pytest.approx(probs[len(prompt) :], abs=1e-5)
        assert line == expected
        assert line["value"] == round(line["value"], 6)
    assert len({line["value"] for line in lines}) > 20  # the model tells the rows apart


def test_the_texts_of_this_test_tell_tokenising_the_whole_from_the_parts():
    tokenizer = build_tokenizer()
    rows = text_rows(50)
    wholes = [tokenizer.encode(row["prompt"] + row["response"]) for row in rows]
    assert wholes != [prompt + response for prompt, response in map(token_ids, rows)]


def test_one_half_of_a_row_may_be_text_and_the_other_ids(
    value_model_folder, tokenizer_folder, tmp_path
):
    text = text_rows(8)
    mixed = [{"prompt": row["prompt"], "response_ids": token_ids(row)[1]} for row in text]
    outputs = []
    for name, rows in (("text", text), ("mixed", mixed)):
        path = write_rows(tmp_path / name, rows)
        outputs.append(tmp_path / f"{name}.jsonl")
        args = make_args(value_model_folder, path, outputs[-1], tokenizer=str(tokenizer_folder))
        score.score_file(args)
    values = [[line["value"] for line in read_rows(output)] for output in outputs]
    assert values[0] == values[1]


@pytest.mark.parametrize("at", ["end", "tokens"])
def test_batches_keep_to_the_limit_and_hold_little_padding(
    value_model_folder, tmp_path, monkeypatch, at
):
    rows = id_rows(120)
    long = {"prompt_ids": [1] * 90, "response_ids": [2] * 30}
    path = write_rows(tmp_path / "rows.jsonl", [*rows, long])
    shapes: list[torch.Size] = []
    heads: list[int] = []
    forward, head = Qwen2Model.forward, scoring.success_probabilities

    def record_forward(self, input_ids, **kwargs):
        assert kwargs.get("attention_mask") is None
        shapes.append(input_ids.shape)
        return forward(self, input_ids=input_ids, **kwargs)

    def record_head(logits: torch.Tensor) -> torch.Tensor:
        heads.append(logits.shape[:-1].numel())
        return head(logits)

    monkeypatch.setattr(Qwen2Model, "forward", record_forward)
    monkeypatch.setattr(scoring, "success_probabilities", record_head)
    args = make_args(value_model_folder, path, tmp_path / "o.jsonl", max_batch_tokens=110, at=at)
    score.score_file(args)
    assert [shape for shape in shapes if shape.numel() > 110] == [(1, 120)]
    assert sum(shape[0] for shape in shapes) == 121
    num_tokens = sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in [*rows, long])
    assert sum(shape.numel() for shape in shapes) < 1.1 * num_tokens
    num_valued = 121 if at == "end" else sum(max(1, len(row["response_ids"])) for row in rows) + 30
    assert sum(heads) == num_valued


def test_bfloat16_computes_in_bfloat16(finished, value_model_folder, tmp_path):
    rows, output = finished
    coarse = tmp_path / "coarse.jsonl"
    score.main(command(value_model_folder, rows, coarse, "--dtype", "bfloat16"))
    fine = [line["value"] for line in read_rows(output)]
    values = [line["value"] for line in read_rows(coarse)]
    assert values == pytest.approx(fine, abs=0.1)
    assert values != pytest.approx(fine, abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "limit", "name"),
    [
        ([], CONTEXT, "the model's context"),
        (["--max_length", "50"], 50, "the --max_length"),
        (["--max_length", "1000"], CONTEXT, "the model's context"),
    ],
)
def test_rows_that_are_too_long_are_not_cut(value_model_folder, tmp_path, flags, limit, name):
    rows = [{"prompt_ids": [1] * 9, "response_ids": [2] * (limit - 9 + k)} for k in (0, 1)]
    output = tmp_path / "values.jsonl"
    score.main(command(value_model_folder, write_rows(tmp_path / "rows", rows), output, *flags))
    longest, too_long = read_rows(output)
    assert longest["num_tokens"] == limit
    assert longest["value"] is not None
    assert too_long["error"] == f"{limit + 1} tokens, more than {name} of {limit}"


def test_values_that_are_no_numbers_are_errors_of_their_rows(value_model_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(value_model_folder, broken)
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


@pytest.fixture
def little_memory(monkeypatch) -> None:
    """Forwards of more than 12 tokens run out of memory."""
    forward = Qwen2Model.forward

    def limited(self, input_ids, **kwargs):
        if input_ids.numel() > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(Qwen2Model, "forward", limited)


def rows_of_lengths(path: Path, lengths: tuple[int, ...]) -> Path:
    return write_rows(path, [{"prompt_ids": [1], "response_ids": [2] * n} for n in lengths])


@pytest.mark.usefixtures("little_memory")
def test_too_little_memory_for_a_batch_names_the_flag(value_model_folder, tmp_path, score_error):
    rows = rows_of_lengths(tmp_path / "rows.jsonl", (3, 4, 5))
    output = tmp_path / "values.jsonl"
    line = score_error(command(value_model_folder, rows, output, "--max_batch_tokens", "20"))
    assert "out of memory: the same command with a smaller --max_batch_tokens (now 20)" in line
    assert not output.exists()


@pytest.mark.usefixtures("little_memory")
def test_too_little_memory_for_a_row_is_its_error(value_model_folder, tmp_path):
    rows = rows_of_lengths(tmp_path / "rows.jsonl", (3, 100, 4, 5))
    output = tmp_path / "values.jsonl"
    score.main(command(value_model_folder, rows, output, "--max_batch_tokens", "12"))
    records = read_rows(output)
    assert records[1]["error"] == "out of memory at 101 tokens"
    assert [record["value"] is None for record in records] == [False, True, False, False]


# Tokenizers.


def test_the_model_folder_may_hold_the_tokenizer(value_model_folder, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(value_model_folder, folder)
    build_tokenizer().save_pretrained(folder)
    rows = text_rows(5)
    output = tmp_path / "values.jsonl"
    score.main(command(folder, write_rows(tmp_path / "rows.jsonl", rows), output))
    expected = [len(prompt) + len(response) for prompt, response in map(token_ids, rows)]
    assert [line["num_tokens"] for line in read_rows(output)] == expected


def test_a_file_that_begins_with_text_needs_a_tokenizer(value_model_folder, tmp_path, score_error):
    texts = write_rows(tmp_path / "texts.jsonl", text_rows(3))
    output = tmp_path / "values.jsonl"
    line = score_error(command(value_model_folder, texts, output))
    assert f"--input {texts} holds text, and there is no tokenizer in {value_model_folder}" in line
    assert line.endswith("--tokenizer")
    assert not output.exists()


def test_one_row_of_text_far_into_a_file_of_ids_ends_nothing(value_model_folder, tmp_path):
    id_and_empty = {"prompt_ids": [1], "response": ""}
    first_window = [*id_rows(WINDOW - 1), id_and_empty]
    rows = write_rows(tmp_path / "rows.jsonl", [*first_window, *text_rows(1)])
    args = make_args(value_model_folder, rows, tmp_path / "ids.jsonl")
    summary = score.score_file(args, window_rows=WINDOW)
    assert summary.num_bad == 1
    assert summary.first_bad[0] == (WINDOW, RowParser.NO_TOKENIZER)


@pytest.fixture
def refusal(tmp_path, score_error):
    """Runs a command on rows of ids that is refused, and leaves nothing behind."""
    rows = write_rows(tmp_path / "rows.jsonl", id_rows(2))
    output = tmp_path / "values.jsonl"

    def run(model: Path, *flags: str) -> str:
        line = score_error(command(model, rows, output, *flags))
        assert not output.exists()
        assert not output.with_name("values.jsonl.config.json").exists()
        return line

    return run


def test_a_folder_without_a_tokenizer_is_refused(value_model_folder, tmp_path, refusal):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, value_model_folder):
        # Of a model's folder, transformers makes an empty Qwen2Tokenizer without a word.
        line = refusal(value_model_folder, "--tokenizer", str(folder))
        assert f"--tokenizer {folder}: no tokenizer could be loaded: " in line


@pytest.mark.parametrize("size", [290, 2000])
def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, refusal, size):
    policy = str(save_tiny_policy(tmp_path / "policy"))
    other = save_tiny_classifier(tmp_path / "other", vocab_size=size)
    line = refusal(other, "--tokenizer", policy)
    assert f"--tokenizer {policy}, --model {other}: the model has a vocabulary of {size}" in line
    assert "the tokenizer one of 291" in line


@pytest.mark.parametrize("content", ['{"version": ', '{"version": "1.0"}', "[]"])
def test_a_damaged_tokenizer_of_the_model_is_refused(
    value_model_folder, tmp_path, refusal, content
):
    damaged = tmp_path / "damaged"
    shutil.copytree(value_model_folder, damaged)
    (damaged / "tokenizer.json").write_text(content)
    assert f"--tokenizer {damaged}: no tokenizer could be loaded: " in refusal(damaged)


# The command line.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "absent.jsonl"], "--input absent.jsonl does not exist"),
        (["--input", "."], "--input . is not a regular file"),
        (["--input", "empty.jsonl"], "--input empty.jsonl is empty"),
        (["--max_batch_tokens", "0"], "--max_batch_tokens must be at least 1, got 0"),
        (["--max_length", "-1"], "--max_length must be at least 1, got -1"),
        (["--model", "/absent"], "--model /absent: no model could be found"),
        (["--model", "policy"], "--model policy holds ['Qwen2ForCausalLM'], not a value model"),
        (["--model", "torn"], "--model torn: no model could be loaded"),
        (["--attention_impl", "nonsense"], "--model value_model: "),
        (
            ["--attention_impl", "flash_attention_2"],
            "--attention_impl flash_attention_2 needs --dtype bfloat16",
        ),
        (["--output", "empty.jsonl/values.jsonl"], "--output [Errno 17] File exists: 'empty."),
        (["--output", "value_model"], "value_model is not empty, and no value_model.config.json"),
    ],
)
def test_errors_are_one_line(
    value_model_folder, tmp_path, monkeypatch, score_error, flags, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(score, "is_flash_attn_2_available", lambda: True)
    shutil.copytree(value_model_folder, "value_model")
    shutil.copytree(value_model_folder, "torn")
    weights = Path("torn/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    save_tiny_policy(Path("policy"))
    Path("empty.jsonl").touch()
    rows = write_rows(Path("rows.jsonl"), id_rows(2))
    argv = command(Path("value_model"), rows, Path("values.jsonl"), *flags)
    assert message in score_error(argv)
    assert not Path("values.jsonl").exists()


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
