import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from classifier_lib.training.args import TrainArgs
from classifier_lib.training.card import model_card
from data_prep.toy.tokenizer import build_tokenizer
from run_lib import hub
from run_lib.files import write_files
from run_lib.hub import (
    TOKENIZER_FILES,
    check_vocabulary,
    load_tokenizer,
    push_folder,
    read_tokenizer,
)


def config(**changes: Any) -> dict[str, Any]:
    flags = {"data_path": "org/data", "model_path": "org/policy", "run_name": "my_run"}
    return dataclasses.asdict(TrainArgs(**{**flags, **changes}))


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


def test_written_files_are_those_that_were_read(tmp_path):
    files = {"a.json": b"{}\r\n", "b.model": bytes(range(256))}
    write_files(tmp_path, files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_card_without_evaluation():
    card = model_card(config(), 500, 2000, None, "me/my_run")
    assert "Not evaluated on held-out roll-outs." in card
    assert 'from_pretrained("me/my_run", trust_remote_code=True)' in card
    assert (
        "500 steps of 1,024 samples (256.00 epochs of 2,000 roll-outs), loss `cross_entropy`"
        in card
    )
    assert "| max_lr | 0.0001 |" in card
    assert "| packing | packed |" in card
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "token-classification"
    assert data.base_model == "org/policy"
    assert data.datasets == ["org/data"]
    assert "value-model" in data.tags


def test_card_with_evaluation():
    scores = {"loss": 0.51234, "accuracy": 0.8, "auroc": 0.9, "brier": None}
    evaluation = {"num_tokens": 12345, **scores, "by_decile": []}
    card = model_card(config(eval_data_path="org/held_out"), 5, 20, evaluation, "me/my_run")
    assert "On 12,345 roll-out tokens of `org/held_out`:" in card
    table = card[card.index("| metric | value |") :].splitlines()[2:]
    assert table == ["| loss | 0.5123 |", "| accuracy | 0.8000 |", "| auroc | 0.9000 |"]


@pytest.mark.parametrize("name", ["data: v2", "[a]", "*x", "@home/data", "1.5", "{a}", "a #b"])
def test_card_with_names_that_yaml_takes_for_something_else(name):
    card = model_card(config(data_path=name, model_path=name), 5, 20, None, "me/my_run")
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name == "transformers"
    for field in (data.base_model, *(data.datasets or [])):
        assert field in (None, name)


@pytest.mark.parametrize("path", ["/home/me/policy", "./policy", "outputs/toy/policy"])
def test_card_of_a_run_on_local_files(path):
    """The Hub refuses a card whose base_model or data set can't be the name of a repository."""
    card = model_card(config(data_path=path, model_path=path), 5, 20, None, "me/my_run")
    data = huggingface_hub.ModelCard(card).data
    assert data.base_model is None
    assert not data.datasets
    assert path in card  # in the text


def test_push_creates_the_repository_of_the_user(tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id: str, exist_ok: bool) -> Any:
            calls.append(("create", repo_id, exist_ok))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

        def upload_folder(self, repo_id: str, folder_path: Path) -> None:
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setattr(hub.huggingface_hub, "HfApi", Api)
    assert push_folder(tmp_path, "my_run") == "https://huggingface.co/me/my_run"
    assert calls == [("create", "my_run", True), ("upload", "me/my_run", tmp_path)]


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
