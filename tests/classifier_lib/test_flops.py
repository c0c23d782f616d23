"""Sizes of models from their config.json, without the model."""

import json

import huggingface_hub
import pytest
from transformers import AutoModelForCausalLM

from classifier_lib.flops import GATED, ModelSize, Shape, model_size, scorer_size
from classifier_lib.loading import value_model_class
from classifier_lib.modeling import VALUE_MODELS
from tests.support.tiny_models import FAMILY_SETTINGS, tiny_config_of, tiny_value_config


def save(config, folder):
    config.save_pretrained(folder)
    return str(folder), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", GATED)
def test_a_config_tells_the_size_of_a_language_model(family, tmp_path):
    config = tiny_config_of(family, 57, **FAMILY_SETTINGS.get(family, {}))
    folder, content = save(config, tmp_path)
    assert Shape.of(content) is not None
    assert model_size(folder) == ModelSize.of(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("num_labels", [1, 2, 3])
@pytest.mark.parametrize("family", VALUE_MODELS)
def test_a_config_tells_the_size_of_a_value_model(family, num_labels, tmp_path):
    config = tiny_value_config(family, num_labels=num_labels)
    config.architectures = [VALUE_MODELS[family].__name__]
    folder, _ = save(config, tmp_path)
    assert model_size(folder) == ModelSize.of(value_model_class(config)(config))


@pytest.mark.parametrize(
    "changes", [{"model_type": "gemma"}, {"num_key_value_heads": None}, {"num_hidden_layers": None}]
)
def test_another_kind_of_layers_or_a_missing_size_is_asked_of_the_model(changes, tmp_path):
    config = tiny_config_of("gemma", 57)
    folder, content = save(config, tmp_path)
    assert Shape.of(content | {"model_type": "qwen2"}) is not None
    assert Shape.of(content | {"model_type": "qwen2"} | changes) is None
    assert model_size(folder) == ModelSize.of(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("size", [model_size, scorer_size])
@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "qwen9"}'])
def test_a_damaged_config_has_no_size(size, content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert size(str(tmp_path)) is None
    assert size(str(tmp_path / "absent")) is None


def test_a_model_in_the_cache_of_the_hub_has_its_size_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", pytest.fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", pytest.fail)
    cached = tmp_path / "models--who--what"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    folder, _ = save(tiny_config_of("qwen2", 64), cached / "snapshots" / ("0" * 40))
    assert model_size("who/what") == model_size(folder) is not None


def test_a_hub_that_is_not_there_is_not_waited_for(tmp_path, monkeypatch):
    def refuse(url):
        asked.append(url)
        raise ConnectionError("no network")

    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", pytest.fail)  # tries again and again
    assert model_size("who/what") is None
    assert [url.endswith("who/what/resolve/main/config.json") for url in asked] == [True]
