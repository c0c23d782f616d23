"""The model card of a policy holds the numbers of its run."""

from typing import Any

import huggingface_hub

from classifier_lib.training.uploads import HubFlags
from dvo_lib.args import DvoArgs
from dvo_lib.card import policy_card
from run_lib.settings import as_json


def config(**changes: Any) -> dict[str, Any]:
    flags = {"run_name": "my_run", "data_path": "outputs/dvo/data", "model_path": "org/policy"}
    config: dict[str, Any] = as_json(DvoArgs(**flags | changes))
    return config


def test_a_card_without_evaluation():
    card = policy_card(config(beta=0.25, normalize="step"), 500, 2000, 9000, None)
    assert "(arXiv 2502.13723)" in card
    assert (
        "500 steps of 16 trees (4.00 epochs of 2,000 trees with 9,000 paths), from the base" in card
    )
    assert "policy `org/policy` on `outputs/dvo/data`" in card
    assert "| beta | 0.25 |\n| normalize | step |" in card
    assert "Not evaluated on held-out trees." in card
    assert 'AutoModelForCausalLM.from_pretrained("my_run")' in card
    data = huggingface_hub.ModelCard(card).data
    assert (data.pipeline_tag, data.base_model) == ("text-generation", "org/policy")
    assert not data.datasets  # a folder
    assert "direct-value-optimization" in data.tags


def test_a_card_with_evaluation():
    hub = HubFlags(hub_model_id="me/model")
    card = policy_card(config(eval_data_path="held_out", hub=hub), 5, 20, 80, {"kl": 0.01234})
    assert "On the trees of `held_out`:\n\n| metric | value |\n|---|---|\n| kl | 0.0123 |" in card
    assert 'AutoTokenizer.from_pretrained("me/model")' in card
