import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Qwen2Config,
    Qwen2Model,
)
from transformers.utils import is_flash_attn_2_available

import classifier_lib
from classifier_lib import modeling
from classifier_lib.modeling import VALUE_MODELS, Qwen2ForClassifier, terminal_class_loss
from tests.support.tiny_models import build_tiny_config, tiny_value_config

PUBLISHED_CONFIG = {
    "architectures": ["Qwen2ForClassifier"],
    "attention_dropout": 0.05,
    "hidden_act": "silu",
    "hidden_size": 32,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_position_embeddings": 131072,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.1",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 64,
}


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Qwen2Model, torch.Tensor, torch.Tensor]:
    """A checkpoint written by hand in the published layout, and the numbers in it."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    backbone = Qwen2Model(build_tiny_config()).eval()
    first, second = torch.randn(32, 32), torch.randn(3, 32)
    weights = {f"model.{name}": value for name, value in backbone.state_dict().items()}
    shards = [weights, {"score.0.weight": first, "score.2.weight": second}]
    index: dict[str, dict] = {"metadata": {"total_size": 0}, "weight_map": {}}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(shard, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    return folder, backbone, first, second


def tiny_classifier(config: Qwen2Config, **changes: object) -> Qwen2ForClassifier:
    torch.manual_seed(0)
    return Qwen2ForClassifier(Qwen2Config(**{**config.to_dict(), **changes})).eval()


def example_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    loss_mask = torch.zeros(2, 9)
    loss_mask[:, 4:] = 1
    return {
        "input_ids": torch.randint(64, (2, 9), generator=generator),
        "labels": torch.tensor([1, 2]),
        "loss_mask": loss_mask,
    }


def test_published_layout_loads_unchanged(published):
    folder, backbone, first, second = published
    model, info = Qwen2ForClassifier.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = example_inputs()["input_ids"]
    with torch.no_grad():
        hidden = backbone(ids).last_hidden_state
        logits = torch.relu(hidden @ first.T) @ second.T
        outputs = model(ids)
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.success_probs, logits.softmax(-1)[..., 1])
    assert outputs.past_key_values is None


def test_dtype_comes_from_the_config(published):
    assert Qwen2ForClassifier.from_pretrained(published[0]).dtype == torch.bfloat16


@pytest.mark.skipif(is_flash_attn_2_available(), reason="FlashAttention-2 is installed")
def test_sdpa_in_place_of_flash_attention_is_announced_once(caplog):
    modeling._warn_of_sdpa.cache_clear()  # other tests are of this process, too
    names = [modeling.resolve_attention("flash_attention_2") for _ in range(2)]
    assert names == ["sdpa", "sdpa"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("using sdpa instead.")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="FlashAttention-2 is installed")
def test_readme_snippet_runs_on_a_cpu(published):
    kwargs = {
        "attn_implementation": "flash_attention_2",
        "torch_dtype": torch.bfloat16,
        "use_cache": False,
    }
    classifier = classifier_lib.Qwen2ForClassifier.from_pretrained(published[0], **kwargs)
    assert classifier.config._attn_implementation == "sdpa"
    assert classifier.dtype == torch.bfloat16
    ids = torch.tensor([1, 2, 3])
    outputs = classifier(ids.unsqueeze(0), attention_mask=torch.ones_like(ids).unsqueeze(0))
    assert outputs.success_probs.dtype == torch.float32
    assert 0 <= outputs.success_probs.squeeze(0)[-1].item() <= 1


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_success_probs_by_number_of_labels(tiny_config, num_labels):
    model = tiny_classifier(tiny_config, num_labels=num_labels)
    with torch.no_grad():
        outputs = model(**example_inputs())
    logits = outputs.logits
    assert logits.shape == (2, 9, num_labels)
    expected = logits[..., 0].sigmoid() if num_labels == 1 else logits.softmax(-1)[..., 1]
    torch.testing.assert_close(outputs.success_probs, expected)
    assert outputs.loss.isfinite()


def test_bad_arguments_are_named(tiny_config):
    with pytest.raises(ValueError, match="num_labels 1, 2 or 3, not 4"):
        tiny_classifier(tiny_config, num_labels=4)
    with pytest.raises(ValueError, match="loss_mask"):
        tiny_classifier(tiny_config)(torch.tensor([[1]]), labels=torch.tensor([1]))


def test_the_loss_is_that_of_the_terminal_class(tiny_config):
    model, inputs = tiny_classifier(tiny_config), example_inputs()
    outputs = model(**inputs)
    expected = terminal_class_loss(outputs.logits, inputs["labels"], inputs["loss_mask"])
    assert torch.equal(outputs.loss, expected)
    assert model(inputs["input_ids"]).loss is None


def test_cached_prefix_gives_the_same_values(tiny_config):
    model = tiny_classifier(tiny_config)
    ids = example_inputs()["input_ids"]
    with torch.no_grad():
        whole = model(ids).success_probs
        prefix = model(ids[:, :5], use_cache=True)
        rest = model(ids[:, 5:], past_key_values=prefix.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([prefix.success_probs, rest.success_probs], 1), whole)


def test_save_and_load_are_exact(tiny_config, tmp_path):
    model = tiny_classifier(tiny_config)
    model.save_pretrained(tmp_path)
    loaded = Qwen2ForClassifier.from_pretrained(tmp_path)
    assert set(loaded.state_dict()) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_saved_folders_work_without_this_repository(tmp_path):
    models = {family: kind(tiny_value_config(family)) for family, kind in VALUE_MODELS.items()}
    for family, model in models.items():
        model.eval().save_pretrained(tmp_path / family)
    inputs = example_inputs()
    torch.save(inputs, tmp_path / "inputs.pt")
    code = """
import sys, torch
from transformers import AutoModelForTokenClassification
for package in ("classifier_lib", "run_lib", "search_lib", "dvo_lib", "data_prep"):
    sys.modules[package] = None  # can't be imported, though this environment may have it installed
for family in sys.argv[1:]:
    model = AutoModelForTokenClassification.from_pretrained(family, trust_remote_code=True)
    with torch.no_grad():
        outputs = model(**torch.load("inputs.pt"))
    torch.save({"probs": outputs.success_probs, "loss": outputs.loss}, family + ".pt")
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *models]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    for family, model in models.items():
        outputs = torch.load(tmp_path / f"{family}.pt")
        with torch.no_grad():
            expected = model(**inputs)
        assert torch.equal(outputs["probs"], expected.success_probs)
        assert torch.equal(outputs["loss"], expected.loss)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_config):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_classifier(tiny_config, attention_dropout=0.3).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model(**example_inputs()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
