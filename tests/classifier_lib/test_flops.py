"""Sizes of models from their config.json, without the model."""

import json

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
