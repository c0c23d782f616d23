"""Which policies are trained; that their layouts are right, is in `test_batches`."""

import pytest
from transformers import AutoConfig

from dvo_lib.policy import FAMILIES, load_policy_config
from tests.support.tiny_models import tiny_config_of


@pytest.mark.parametrize("family", FAMILIES)
def test_families_without_windows_are_trained(family, tmp_path):
    tiny_config_of(family, 64).save_pretrained(tmp_path)
    assert load_policy_config(str(tmp_path)).model_type == family


@pytest.mark.parametrize("family", ["bart", "gemma2", "gpt2", "mamba", "qwen2_vl", "t5"])
def test_other_families_are_refused(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} holds a {family} model; DVO trains llama, "):
        load_policy_config(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 16}),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}),
        ("smollm3", {"layer_types": ["full_attention", "sliding_attention"]}),
    ],
)
def test_sliding_windows_are_refused(family, settings, tmp_path):
    tiny_config_of(family, 64, **settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} has sliding-window attention, which rows"):
        load_policy_config(str(tmp_path))


def test_a_window_that_no_layer_has_is_none(tmp_path):
    settings = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}
    tiny_config_of("qwen2", 64, **settings).save_pretrained(tmp_path)
    assert load_policy_config(str(tmp_path)).model_type == "qwen2"


def test_positions_that_depend_on_the_batch_are_refused(tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    tiny_config_of("llama", 64, rope_parameters=rope).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} has dynamic positions: a sequence's would"):
        load_policy_config(str(tmp_path))
