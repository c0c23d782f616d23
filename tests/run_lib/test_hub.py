"""Folders and repositories in the form of the Hub."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from classifier_lib.flops import model_size
from classifier_lib.loading import initialize_from_policy, load_value_config, load_value_model
from data_prep.toy.tokenizer import build_tokenizer
from run_lib import hub
from run_lib.hub import (
    TOKENIZER_FILES,
    NotPushed,
    check_vocabulary,
    create_dataset,
    load_config,
    load_tokenizer,
    loading,
    push_folder,
    read_tokenizer,
)
from search_lib.engines.hf import HfEngine
from search_lib.prompts import stop_token_ids
from tests.support.tiny_models import add_code, save_tiny_classifier, save_tiny_policy


def test_tokenizer_files_are_read_as_they_are(tiny_policy, tmp_path):
    name = "tokenizer_config.json"
    assert read_tokenizer(tiny_policy) == {name: (tiny_policy / name).read_bytes()}
    assert read_tokenizer(tmp_path) == {}
    for i, name in enumerate(TOKENIZER_FILES):
        (tmp_path / name).write_bytes(bytes([i, 255]))
    (tmp_path / "config.json").write_text("{}")
    assert read_tokenizer(str(tmp_path)) == {
        name: bytes([i, 255]) for i, name in enumerate(TOKENIZER_FILES)
    }


def test_tokenizer_of_a_repository(tiny_policy, monkeypatch):
    asked = []

    def download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append((repo_id, sorted(allow_patterns)))
        return str(tiny_policy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert list(read_tokenizer("org/policy")) == ["tokenizer_config.json"]
    assert asked == [("org/policy", sorted(TOKENIZER_FILES))]  # the tokenizer, not the weights


def test_a_tokenizer_that_the_hub_does_not_give_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = "^org/policy: no tokenizer could be loaded: .*Hub: ConnectionError: no network$"
    with pytest.raises(ValueError, match=message):
        read_tokenizer("org/policy")


def fail(*args: Any, **kwargs: Any) -> Any:
    raise ConnectionError("no\n  network")


def error_of_loading(path: str | Path, **more: str) -> str:
    with pytest.raises(ValueError, match=f"^{path}: ") as info, loading(path, **more):
        fail()
    assert isinstance(info.value.__cause__, ConnectionError)
    return str(info.value)


def test_any_error_of_loading_is_one_line_that_begins_with_the_path(tmp_path):
    line = error_of_loading(tmp_path)
    assert line == f"{tmp_path}: no model could be loaded: ConnectionError: no network"


def test_a_failure_to_load_has_its_own_words(tmp_path):
    line = error_of_loading(tmp_path, failure="no engine could be started")
    assert line == f"{tmp_path}: no engine could be started: ConnectionError: no network"


def test_a_path_that_is_not_there_may_be_meant_for_the_hub():
    line = error_of_loading("org/policy")
    assert line.startswith("org/policy: no model could be loaded: no such folder, and from the Hub")


def test_a_block_that_loads_is_left_alone(tmp_path):
    with loading(tmp_path):
        loaded = 1
    assert loaded == 1


def test_a_config_is_loaded_or_its_folder_named(tiny_policy, tmp_path):
    assert load_config(str(tiny_policy)).vocab_size == 64
    with pytest.raises(ValueError, match=rf"^{tmp_path}: no model could be found: .+\Z"):
        load_config(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hidden_size": 0}, "hidden_size 0, which is no number from 1 to 1,000,000"),
        ({"vocab_size": -1}, "vocab_size -1, which is no number from 1 to 100,000,000"),
        ({"num_hidden_layers": 10**12, "layer_types": None}, "num_hidden_layers 1000000000000, "),
        ({"intermediate_size": "big"}, "intermediate_size 'big', which is no number from 1"),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads 4, which is no multiple of num_key_value",
        ),
        ({"num_attention_heads": 6}, "hidden_size 32, which is no multiple of num_attention_heads"),
    ],
)
def test_an_impossible_size_is_named(tiny_policy, tmp_path, changes, fault):
    config = json.loads((tiny_policy / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=f"^{tmp_path}: config.json has {fault}"):
        load_config(str(tmp_path))


def test_a_data_set_that_the_hub_refuses_is_named(monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    message = "^org/data: no repository could be made: .*ConnectionError: no network$"
    with pytest.raises(ValueError, match=message):
        create_dataset("org/data")


def test_a_push_that_fails_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(NotPushed, match=f"{tmp_path} could not be pushed to me/model: Connection"):
        push_folder(tmp_path, "me/model")


def test_push_creates_the_repository_of_the_user(tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id: str, exist_ok: bool) -> Any:
            calls.append(("create", repo_id, exist_ok))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

        def upload_folder(
            self, repo_id: str, folder_path: Path, ignore_patterns: list[str]
        ) -> None:
            calls.append(("upload", repo_id, folder_path, ignore_patterns))

    monkeypatch.setattr(hub.huggingface_hub, "HfApi", Api)
    assert push_folder(tmp_path, "my_run", ("a/*",)) == "https://huggingface.co/me/my_run"
    assert calls == [("create", "my_run", True), ("upload", "me/my_run", tmp_path, ["a/*"])]


def test_a_loaded_tokenizer_is_the_saved_one(tmp_path):
    saved = build_tokenizer()
    saved.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.get_vocab() == saved.get_vocab()
    assert tokenizer.encode("start 3 +4") == saved.encode("start 3 +4") != []


@pytest.mark.parametrize("content", [None, "", '{"version": ', '{"version": "1.0"}', "[]"])
def test_a_tokenizer_that_cannot_be_used_is_refused_in_one_line(tiny_policy, tmp_path, content):
    folder = tmp_path / "policy"
    shutil.copytree(tiny_policy, folder)  # transformers makes an empty tokenizer of such a folder
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{folder}: no tokenizer could be loaded: .+\Z"):
        load_tokenizer(str(folder))


def test_a_folder_that_is_not_there_is_said_to_be_none(tmp_path):
    message = f"^{tmp_path}/absent: no tokenizer could be loaded: no such folder, and from the Hub"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("extra", "fits"), [(-1, False), (0, True), (300, True), (1024, True), (1025, False)]
)
def test_a_vocabulary_may_have_some_padding(extra, fits):
    tokenizer = build_tokenizer()
    size = len(tokenizer) + extra
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match=f" of {size} tok"):
        check_vocabulary(tokenizer, size)


@pytest.fixture
def no_answer(monkeypatch):
    """Fails where transformers asks on the terminal whether to run code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))


@pytest.mark.parametrize(
    "load", [load_tokenizer, load_config, HfEngine.load, load_value_config, initialize_from_policy]
)
def test_the_code_of_a_folder_is_not_run_and_is_named(tmp_path, no_answer, load):
    folder = add_code(save_tiny_policy(tmp_path / "m"), tmp_path / "ran", model_type="mystery")
    more = (3, 0.0) if load is initialize_from_policy else ()
    with pytest.raises(ValueError, match=f"^{folder}: no .* it comes with code of its own"):
        load(str(folder), *more)
    assert model_size(str(folder)) is None
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_code_that_is_not_needed_loads_without_it(tmp_path, no_answer):
    marker = tmp_path / "ran"
    policy = str(add_code(save_tiny_policy(tmp_path / "policy"), marker, model_type=None))
    tokenizer = load_tokenizer(policy)
    assert stop_token_ids(policy, tokenizer) == (tokenizer.eos_token_id,)
    assert load_config(policy).model_type == "qwen2"
    assert len(tokenizer) == len(build_tokenizer())
    HfEngine.load(policy, device="cpu")
    initialize_from_policy(policy, 3, 0.0)

    published = save_tiny_classifier(tmp_path / "value_model")
    assert "auto_map" in (published / "config.json").read_text()
    value_model = str(add_code(published, marker, model_type=None))
    load_value_config(value_model)
    load_value_model(value_model, "sdpa", torch.float32, torch.device("cpu"))
    assert model_size(policy) is not None
    assert model_size(value_model) is not None
    assert not marker.exists()


def test_a_path_that_no_disk_takes_is_one_line():
    path = "x" * 300
    with pytest.raises(ValueError, match=f"^{path}: no model could be found: no such folder"):
        load_config(path)
