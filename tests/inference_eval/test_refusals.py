"""What an evaluation refuses, in one line, before it loads a model."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import inference_eval
from run_lib.commands import InputError
from search_lib import open_models
from tests.support.flags import replace_flags
from tests.support.searches import (
    as_command,
    keys,
    make_args,
)
from tests.support.tiny_models import add_code, save_tiny_classifier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "aime-42"}, "--benchmark aime-42 is not known; known are aime-24"),
        ({"answer_column": "solution"}, "no column 'solution'; it has .*--answer_column"),
        ({"num_blocks": 5}, "--num_blocks 5 is not divisible by the width 2"),
        ({"block_size": 5}, "--block_size 5 does not divide --max_length 32"),
        (
            {"answer_format": "final_answer", "answers": "published"},
            "--answers published counts boxes, not --answer_format final_answer",
        ),
        (
            {"answer_format": "choice"},
            "--answer_format choice is not for --benchmark toy, whose answers are written as boxed",
        ),
        (
            {"think_tags": ("<a>", "<b>"), "answers": "published"},
            "--answers published reads what is behind </think>, no other tag",
        ),
        ({"think_tags": ("<a>", "")}, r"--think_tags .*: expected auto, none, or two tags"),
        ({"skip_problems": 200}, "--skip_problems 200 leaves none of the 200 problems of --bench"),
        ({"skip_problems": -1}, "--skip_problems must be at least 0, got -1"),
        ({"search_type": "dfs"}, "unknown --search_type 'dfs'"),
        ({"scorer": "none"}, "--search_type beam2 selects blocks by their values, and --scorer no"),
        ({"scorer": "none", "search_type": "bfs"}, "--search_type bfs selects .* --scorer none"),
        ({"num_repetitions": 0}, "--num_repetitions must be at least 1"),
        (
            {"stop": "value", "scorer": "none", "search_type": "bon"},
            "--stop value weighs by values, and --scorer none gives none",
        ),
        ({"stop_confidence": 0.9}, "--stop_confidence is for --stop beta and value, not never"),
        (
            {"stop": "beta", "stop_confidence": 1.0},
            "--stop_confidence must be between 0 and 1, got 1.0",
        ),
        ({"max_concurrent": 0}, "--max_concurrent must be at least 1, got 0"),
        ({"value_cache_tokens": -1}, "--value_cache_tokens must be at least 0, got -1"),
        ({"num_blocks": 10**12}, "--num_blocks must be at most 1000000, got 1000000000000"),
        ({"num_repetitions": 10**9}, "--num_repetitions 1000000000 of 3 problems make more than"),
        ({"vote": ("Bordo",)}, "--vote there is no vote 'Bordo'; known: MV, WMV, BoN, pass@1, "),
        ({"vote": ("all", "Borda")}, r"--vote Borda needs confidences \(--confidence records them"),
        ({"vote": ("CWMV",)}, r"--vote CWMV needs calibrated values \(--calibration\)"),
        (
            {"vote": ("PV",), "scorer": "none", "search_type": "bon"},
            r"--vote PV needs values \(--scorer\), which the responses lack",
        ),
        (
            {"calibration": Path("c.json"), "scorer": "none", "search_type": "bon"},
            "--calibration is of values, and there are none",
        ),
        ({"calibration": Path("/absent.json")}, "--calibration /absent.json: there is no such fi"),
        ({"confidence": 0}, "--confidence must be at least 1, got 0"),
        ({"temperature": -1.0}, "--temperature must not be negative"),
        ({"temperature": float("inf")}, "--temperature must not be negative, and finite, got inf"),
        ({"top_p": 0.0}, r"--top_p must be in \(0, 1\]"),
        ({"shard": "3/3"}, "--shard 3/3: expected i/n with i from 0 to n - 1"),
        ({"engine": "sglang", "tp_size": 0}, "--tp_size must be at least 1"),
        ({"engine": "sglang_server", "sglang_url": ("localhost",)}, "--sglang_url 'localhost' is"),
        (
            {"engine": "auto", "use_sglang_server": True, "sglang_patience": -1.0},
            "--sglang_patience must be at least 0",
        ),
        (
            {"engine": "sglang_server", "sglang_port": 10**6},
            "--sglang_url 'http://127.0.0.1:1000000",
        ),
        ({"output_path": Path("/dev/null/out.jsonl")}, "--output_path .* cannot be written"),
        ({"output_path": Path("blocks.jsonl")}, "--output_path .*: a run writes blocks.jsonl"),
        ({"token_values": True, "save_blocks": False}, "--token_values .* not with --no_save_bloc"),
        (
            {"token_values": True, "scorer": "none", "search_type": "bon"},
            "--token_values is for --scorer hf; none gives no values",
        ),
        (
            {
                "token_values": True,
                "scorer": "sglang_server",
                "scorer_url": ("http://127.0.0.1:9",),
            },
            "--token_values is for --scorer hf; sglang_server gives one value a block",
        ),
        ({"output_path": Path("out.txt")}, "--output_path must end in .jsonl"),
        ({"max_length": 120}, r"exceed the policy's context of 128 tokens for 3 problems: toy-000"),
        ({"piref_model": "/absent"}, "--piref_model /absent: no tokenizer could be loaded"),
        ({"classifier_ckpt_path": "/absent"}, "--classifier_ckpt_path /absent: no model"),
    ],
)
def test_bad_flags_are_refused_before_any_model_loads(
    models, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr(open_models, "open_engine", None)
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, **changes))
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_value_model_with_another_vocabulary_is_refused(models, tmp_path):
    for vocab_size in (64, 5000):
        folder = save_tiny_classifier(tmp_path / str(vocab_size), vocab_size=vocab_size)
        with pytest.raises(InputError, match=rf"a vocabulary of {vocab_size} tokens, the tok"):
            inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))
    # The same size, but its own tokenizer gives the ids other meanings.
    folder = save_tiny_classifier(tmp_path / "same_size")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (models / "policy" / name).read_text()
        (folder / name).write_text(text.replace('"</think>"', '"</thought>"'))
    with pytest.raises(InputError, match="comes with another tokenizer than the policy's"):
        inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))


def test_a_policy_is_no_value_model(models, tmp_path):
    args = make_args(models, tmp_path, classifier_ckpt_path=str(models / "policy"))
    with pytest.raises(InputError, match=r"holds \['Qwen2ForCausalLM'\], not a value model"):
        inference_eval.main(args)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("score.2.weight", "is no value model: no weights for score.2.weight$"),
        ("model.norm.weight", "is no value model: no weights for model.norm.weight$"),
        (None, "no model could be loaded: SafetensorError"),
    ],
)
def test_a_value_model_without_all_its_weights_is_refused(models, tmp_path, lacking, message):
    folder = save_tiny_classifier(tmp_path / "value_model")
    file = folder / "model.safetensors"
    if lacking:
        weights = load_file(file)
        del weights[lacking]
        save_file(weights, tmp_path / "rest", metadata={"format": "pt"})
        shutil.copy(tmp_path / "rest", file)
    else:
        file.write_bytes(file.read_bytes()[:-100])
    args = make_args(models, tmp_path, classifier_ckpt_path=str(folder))
    with pytest.raises(InputError, match=rf"^--classifier_ckpt_path {folder}:? {message}"):
        inference_eval.main(args)
    assert not args.output_path.exists()


@pytest.mark.parametrize("content", ["[]", '{"model_type": "qwen2", "hidden_size": "wide"}', "{"])
def test_a_damaged_config_is_refused(models, tmp_path, content):
    folder = save_tiny_classifier(tmp_path / "value_model")
    (folder / "config.json").write_text(content)
    message = rf"--classifier_ckpt_path {folder}: (no model|config.json has hidden_size 'wide')"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, classifier_ckpt_path=str(folder)))


def test_a_model_that_needs_its_own_code_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setattr(open_models, "open_engine", None)
    for flag, folder in (("piref_model", "policy"), ("classifier_ckpt_path", "value_model")):
        copy = shutil.copytree(models / folder, tmp_path / folder)
        add_code(copy, tmp_path / "ran", model_type="mystery")
        with pytest.raises(InputError, match=rf"^--{flag} {copy}: no .* code of its own"):
            inference_eval.main(make_args(models, tmp_path, **{flag: str(copy)}))
    assert not (tmp_path / "ran").exists()


def test_a_benchmark_with_repeated_ids_names_the_flag(models, tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text(r'{"id": "a/1\n\u001b", "problem": "start 1 +2", "answer": "3"}' "\n" * 2)
    args = make_args(models, tmp_path, benchmark=str(path))
    message = rf"^--benchmark {path}: the id 'a/1\\n\\x1b' occurs twice: --repeated_ids number"
    with pytest.raises(InputError, match=message):
        inference_eval.main(args)
    assert inference_eval.main(replace_flags(args, repeated_ids="number")) == 0
    assert {key[0] for key in keys(args.output_path)} == {"a/1\n\x1b", "a/1\n\x1b#2"}


def test_references_that_cannot_be_read_are_named_before_any_model_loads(
    models, tmp_path, monkeypatch
):
    monkeypatch.setattr(open_models, "open_engine", None)
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "start 1 +2", "answer": "N/A"}\n')
    message = rf"^--benchmark {path}: 1 of 1 references can't be compared with an answer: 0: 'N/A'$"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path, benchmark=str(path)))


def test_an_empty_benchmark_is_refused(models, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(InputError, match=r"^--benchmark .*empty.jsonl is empty"):
        inference_eval.main(make_args(models, tmp_path, benchmark=str(empty)))


def test_errors_reach_the_user_as_one_line(models, tmp_path):
    command = as_command(make_args(models, tmp_path, num_blocks=5))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "inference_eval.py: error: --num_blocks 5 is not divisible by the width 2 "
        "of --search_type beam2\n"
    )


def test_a_policy_with_fewer_embeddings_than_its_tokenizer_has_tokens_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "policy", tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(config))
    message = f"--piref_model {folder}: the model has a vocabulary of 200 tokens, its tokenizer a"
    with pytest.raises(InputError, match=message):
        inference_eval.main(make_args(models, tmp_path / "run", piref_model=str(folder)))
