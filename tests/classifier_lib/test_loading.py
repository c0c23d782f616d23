"""Value models are loaded whole, or refused in one line that begins with their path."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

import classifier_lib
from classifier_lib.loading import (
    initialize_from_policy,
    load_policy_config,
    load_value_config,
    load_value_model,
)
from classifier_lib.modeling import Qwen2ForClassifier

CPU, FLOAT = torch.device("cpu"), torch.float32


def value_model(config: Qwen2Config) -> Qwen2ForClassifier:
    """A value model with a configuration of its own, which saving it changes."""
    return Qwen2ForClassifier(Qwen2Config(**config.to_dict()))


@pytest.mark.parametrize("tied", [True, False])
def test_initialize_from_policy(tiny_config, tmp_path, tied):
    policy = Qwen2ForCausalLM(Qwen2Config(**{**tiny_config.to_dict(), "tie_word_embeddings": tied}))
    policy.save_pretrained(tmp_path)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(initialize_from_policy(tmp_path, 1, attention_dropout=0.1))
    for name, value in policy.model.state_dict().items():
        assert torch.equal(models[0].model.state_dict()[name], value)
    for name, value in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value)
    head = models[0].score[0].weight
    assert 0.01 < head.std().item() < 0.03
    assert models[0].score[2].weight.shape == (1, 32)
    assert models[0].config.attention_dropout == models[0].dropout.p == 0.1
    assert not models[0].config.use_cache


def test_initialize_from_a_value_model_keeps_its_head(tiny_config, tmp_path):
    model = value_model(tiny_config)
    model.save_pretrained(tmp_path)
    loaded = initialize_from_policy(tmp_path, 3, attention_dropout=0.0)
    assert torch.equal(loaded.score[2].weight, model.score[2].weight)
    with pytest.raises(ValueError, match=r"3 labels.*needs 1"):
        initialize_from_policy(tmp_path, 1, attention_dropout=0.0)


def save_backbone(config: Qwen2Config, folder: Path, **changes: torch.Tensor | None) -> Path:
    """A policy's folder with some weights changed, or left out (None)."""
    weights = Qwen2Model(config).state_dict() | changes
    kept = {f"model.{name}": value for name, value in weights.items() if value is not None}
    folder.mkdir()
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    policy = {"architectures": ["Qwen2ForCausalLM"]}
    Qwen2Config(**{**config.to_dict(), **policy}).save_pretrained(folder)
    return folder


def test_missing_weights_are_named(tiny_config, tmp_path):
    folder = save_backbone(tiny_config, tmp_path / "torn", **{"norm.weight": None})
    with pytest.raises(ValueError, match=f"^{folder} is no whole model: no weights for model.norm"):
        initialize_from_policy(folder, 3, 0.0)


def test_weights_of_another_shape_are_named(tiny_config, tmp_path):
    folder = save_backbone(tiny_config, tmp_path / "bent", **{"norm.weight": torch.ones(7)})
    with pytest.raises(
        ValueError, match=f"^{folder} is no whole model: misshapen weights for model"
    ):
        initialize_from_policy(folder, 3, 0.0)


def test_a_value_model_is_loaded_for_the_device_that_is_there(tiny_config, tmp_path):
    Qwen2ForClassifier(tiny_config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_value_model(str(tmp_path))
    expected = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    assert (model.device.type, model.dtype) == expected
    assert not model.training


def test_only_safetensors_are_read(tiny_config, tmp_path):
    folder = save_backbone(tiny_config, tmp_path / "old")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = f"^{folder} has its weights in pytorch_model.bin; only safetensors are read: "
    for load in (
        load_policy_config,
        lambda path: initialize_from_policy(path, 3, 0.0),
        lambda path: load_value_model(str(path), "sdpa", FLOAT, CPU),
    ):
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_a_damaged_file_of_weights_is_one_line(tiny_config, tmp_path):
    folder = save_backbone(tiny_config, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"^{folder}: no model could be loaded: Safetensor.+\Z"):
        initialize_from_policy(folder, 3, 0.0)


def test_a_policy_is_no_value_model(tiny_policy):
    for load in (load_value_config, lambda path: load_value_model(path, "sdpa", FLOAT, CPU)):
        with pytest.raises(ValueError, match=f"^{tiny_policy} .*value model"):
            load(str(tiny_policy))


def test_a_head_of_another_shape_is_named(tiny_config, tmp_path):
    value_model(tiny_config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.2.weight"] = torch.zeros(5, tiny_config.hidden_size)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = f"^{tmp_path} is no value model: misshapen weights for score.2.weight$"
    with pytest.raises(ValueError, match=message):
        load_value_model(str(tmp_path), "sdpa", FLOAT, CPU)


def test_the_package_has_the_names_for_notebooks():
    for name in classifier_lib.__all__:
        assert getattr(classifier_lib, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'losses_of_all'"):
        classifier_lib.losses_of_all  # noqa: B018
