"""The attention of models that infer: what the library's own computes, with less work."""

import pytest
import torch
from transformers import DynamicCache, Gemma3Config, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from classifier_lib.inference_attention import (
    grouped_sdpa_forward,
    takes_whole_masks,
    use_grouped_attention,
    whole_mask,
)
from classifier_lib.loading import has_sliding_window
from tests.support.tiny_models import build_tiny_config

NUM_COLUMNS = 9


def random_mask(num_queries):
    torch.manual_seed(0)
    mask = torch.rand(4, 1, num_queries, NUM_COLUMNS) < 0.7
    mask[..., 0] = True
    return mask


@pytest.fixture
def model():
    """Of six query heads in two groups."""
    config = build_tiny_config(hidden_size=48, num_attention_heads=6, num_key_value_heads=2)
    return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize("num_queries", [1, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_sdpa_is_sdpa_without_copies_of_keys(num_queries, groups):
    mask, heads = random_mask(num_queries), 2
    query = torch.randn(4, heads * groups, num_queries, 8)
    key, value = torch.randn(2, 4, heads, NUM_COLUMNS, 8)
    layer = torch.nn.Module().eval()
    layer.num_key_value_groups = groups
    arguments = (layer, query, key, value, mask)
    expected, _ = sdpa_attention_forward(*arguments, scaling=0.3)
    found, _ = grouped_sdpa_forward(*arguments, scaling=0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("is_grouped", [True, False])
@pytest.mark.parametrize("num_heads", [2, None])
@pytest.mark.parametrize("num_queries", [1, 5])
def test_a_whole_mask_gives_what_its_truth_values_give(model, num_queries, num_heads, is_grouped):
    if is_grouped:
        use_grouped_attention(model)
    seen = random_mask(num_queries)
    ids = torch.randint(8, (4, num_queries))
    states = [torch.randn(2, 4, 2, NUM_COLUMNS - num_queries, 8) for _ in model.model.layers]

    def logits(mask):
        cache = model_cache(model, states)
        with torch.no_grad():
            return model(ids, attention_mask=mask, past_key_values=cache).logits

    mask = whole_mask(model, seen, num_heads, model.dtype)
    assert mask.dtype == model.dtype
    torch.testing.assert_close(logits(mask), logits(seen), rtol=0, atol=0)


def model_cache(model, states):
    """A cache of the library with these keys and values."""
    cache = DynamicCache(config=model.config)
    for index, (keys, values) in enumerate(states):
        cache.update(keys, values, index)
    return cache


@pytest.mark.parametrize("groups", [1, 3])
def test_a_mask_for_other_groups_is_made_to_fit(groups):
    mask, heads = random_mask(5), 2
    query = torch.randn(4, heads * groups, 5, 8)
    key, value = torch.randn(2, 4, heads, NUM_COLUMNS, 8)
    layer = torch.nn.Module().eval()
    layer.num_key_value_groups = groups
    expected, _ = grouped_sdpa_forward(layer, query, key, value, mask, scaling=0.3)
    repeated = mask.repeat(1, 1, 2, 1)
    found, _ = grouped_sdpa_forward(layer, query, key, value, repeated, scaling=0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_model_with_sliding_windows_makes_masks_of_its_own(model):
    assert takes_whole_masks(model)
    model.config.layer_types = ["sliding_attention"] * len(model.config.layer_types)
    assert not takes_whole_masks(model)


def test_sliding_windows_of_the_language_model_within_another_are_seen():
    text = {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
    assert has_sliding_window(Gemma3Config(text_config=text))
    text["layer_types"] = ["full_attention"] * 2
    assert not has_sliding_window(Gemma3Config(text_config=text))
