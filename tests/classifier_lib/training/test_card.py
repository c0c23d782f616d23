"""The model card holds the numbers of its run."""

import dataclasses
from typing import Any

import huggingface_hub
import pytest

from classifier_lib.training.args import TrainArgs
from classifier_lib.training.card import model_card


def config(**changes: Any) -> dict[str, Any]:
    flags = {"data_path": "org/data", "model_path": "org/policy", "run_name": "my_run"}
    flags |= {"loss": "cross_entropy", "total_batch_size": 1024}
    return dataclasses.asdict(TrainArgs(**{**flags, **changes}))


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
