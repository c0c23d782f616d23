"""Value models of every family: one head, one loss and one scorer over the backbones."""

import random

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaModel,
    PreTrainedModel,
    Qwen2Model,
    Qwen3Model,
)

from classifier_lib.attention import SEGMENTED_SDPA, leave_out_flex_dropout
from classifier_lib.flops import model_size
from classifier_lib.loading import (
    has_sliding_window,
    initialize_from_policy,
    load_policy_config,
    load_value_config,
    load_value_model,
)
from classifier_lib.modeling import VALUE_MODELS, ValueModel
from classifier_lib.scoring import ScoringRequest, ValueScorer
from tests.support.tiny_models import (
    save_tiny_classifier,
    save_tiny_policy,
    tiny_value_config,
)

BACKBONES = {"llama": LlamaModel, "qwen2": Qwen2Model, "qwen3": Qwen3Model}
FAMILIES = list(BACKBONES)
IDS = torch.randint(64, (2, 90), generator=torch.Generator().manual_seed(0))


def build(family: str, **settings: object) -> ValueModel:
    torch.manual_seed(0)
    return VALUE_MODELS[family](tiny_value_config(family, **settings)).eval()


def test_each_family_is_tested():
    assert sorted(VALUE_MODELS) == FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biases", [False, True])
def test_values_are_those_of_transformers_backbone_and_the_head(family, biases, tmp_path):
    settings = {"attention_bias": biases} if family != "qwen2" else {}
    model = build(family, **settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = weights.pop("score.0.weight"), weights.pop("score.2.weight")
    backbone = BACKBONES[family](tiny_value_config(family, **settings)).eval()
    backbone.load_state_dict({name.removeprefix("model."): weights[name] for name in weights})
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        logits = torch.relu(backbone(IDS).last_hidden_state @ first.T) @ second.T
        outputs = load_value_model(str(tmp_path), device=torch.device("cpu"))(IDS)
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.success_probs, logits.softmax(-1)[..., 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_are_exact(family, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path)
    assert load_value_config(str(tmp_path)).model_type == family
    loaded = load_value_model(str(tmp_path), device=torch.device("cpu"))
    assert type(loaded) is VALUE_MODELS[family]
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_gets_a_new_head(family, tmp_path):
    policy = AutoModelForCausalLM.from_pretrained(save_tiny_policy(tmp_path, family=family))
    torch.manual_seed(3)
    model = initialize_from_policy(tmp_path, 2, attention_dropout=0.1)
    assert type(model) is VALUE_MODELS[family]
    for name, value in policy.model.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], value)
    assert model.score[2].weight.shape == (2, 32)
    assert 0.15 < model.score[0].weight.std() < 0.25  # initializer_range
    assert model.dropout.p == model.config.attention_dropout == 0.1


@pytest.mark.parametrize("family", ["bart", "gemma2", "gpt2", "mistral", "qwen3_moe"])
def test_other_families_are_refused(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    message = f"^{tmp_path} holds a {family} model; value models are made of llama, qwen2, qwen3$"
    with pytest.raises(ValueError, match=message):
        load_policy_config(tmp_path)


def test_positions_that_depend_on_the_batch_are_refused(tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    tiny_value_config("llama", rope_parameters=rope).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} has dynamic positions: a sequence's would"):
        load_policy_config(tmp_path)
    build("llama", rope_parameters=rope).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path} has dynamic positions: a sequence's would"):
        load_value_config(str(tmp_path))


WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("family", "settings"),
    [*((family, {}) for family in FAMILIES), ("qwen2", WINDOWS), ("qwen3", WINDOWS)],
)
def test_values_with_cached_prefixes_are_those_of_whole_sequences(family, settings):
    model = build(family, **settings)
    assert has_sliding_window(model.config) == bool(settings)
    scorer = ValueScorer(model, max_batch_tokens=300)
    rng = random.Random(0)

    def draw(count: int) -> list[int]:
        return [rng.randrange(64) for _ in range(count)]

    prefix = draw(50)
    for _ in range(3):
        blocks = [draw(length) for length in (1, 9, 20)]
        (scores,) = scorer.score([ScoringRequest(prefix, blocks)])
        for value, block in zip(scores.values, blocks, strict=True):
            with torch.no_grad():
                whole = model(torch.tensor([prefix + block])).success_probs[0, -1].item()
            assert value == pytest.approx(whole, abs=2e-6)
        prefix = prefix + blocks[1]
    assert scorer.tokens_computed == 50 + 3 * 30


def hidden_states(model: ValueModel) -> torch.Tensor:
    """Of the backbone alone: the head has a dropout of its own."""
    with torch.no_grad():
        return model.model(IDS).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa", SEGMENTED_SDPA])
def test_attention_has_dropout_in_training(family, implementation):
    torch.manual_seed(0)
    config = tiny_value_config(family, attention_dropout=0.5)
    model = VALUE_MODELS[family]._from_config(config, attn_implementation=implementation)
    whole = hidden_states(model.eval())
    assert (hidden_states(model.train()) - whole).abs().max() > 0.1
    model.config._attn_implementation = "flex_attention"
    leave_out_flex_dropout(model)
    model.config._attn_implementation = implementation
    assert torch.equal(hidden_states(model), whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_for_flops_are_those_of_the_weights(family, tmp_path):
    size = model_size(str(save_tiny_classifier(tmp_path / "value_model", family=family)))
    head_dim = 16 if family == "qwen3" else 8
    attention = 32 * 4 * head_dim + 2 * 32 * 2 * head_dim + 4 * head_dim * 32
    matrices = 2 * (attention + 3 * 32 * 64)
    assert size is not None
    assert size.attention_width == 2 * 4 * head_dim
    assert size.num_matmul_parameters == matrices + 32 * 32 + 3 * 32
    policy = save_tiny_policy(tmp_path / "policy", family=family)
    language_model: PreTrainedModel = AutoModel.from_pretrained(policy)
    size = model_size(str(policy))
    assert size is not None
    assert size.num_matmul_parameters == matrices + 32 * language_model.config.vocab_size
