"""What only a GPU can show: training and scoring there give what they give on a CPU.

No fixture of conftest.py is used: `scripts/gpu_day.sh` runs this file without it.
"""

import importlib.util

import numpy as np
import pytest
import torch

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.batches import collate
from classifier_lib.data import Rollout
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import ScoringRequest, ValueScorer
from tests.support.tiny_models import build_tiny_config

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_flash = pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is None,
    reason="needs the flash-attn package, which needs a CUDA device",
)


def gradient_of_loss(model: Qwen2ForClassifier, batch, implementation: str) -> torch.Tensor:
    """Loss and the gradient of the first layer's query projection, under bfloat16 autocast."""
    device = next(model.parameters()).device
    model.config._attn_implementation = implementation
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(**batch.model_inputs(implementation, device)).logits
    loss = LOSSES["cross_entropy"].function(batch.loss_logits(logits), batch.targets.to(device))
    loss.backward()
    gradient = model.model.layers[0].self_attn.q_proj.weight.grad
    assert gradient is not None
    return torch.cat([loss.detach().view(1), gradient.flatten()]).cpu()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("packing", "name"),
    [
        ("packed", "sdpa"),
        ("shared_prefix", "sdpa"),
        ("packed", "flex_attention"),
        ("shared_prefix", "flex_attention"),
        pytest.param("padded", "flash_attention_2", marks=needs_flash),
        pytest.param("packed", "flash_attention_2", marks=needs_flash),
    ],
)
def test_layouts_equal_padding_on_a_cpu(packing, name):
    config = build_tiny_config(hidden_size=256, initializer_range=0.1)
    torch.manual_seed(0)
    model = Qwen2ForClassifier._from_config(config, attn_implementation="sdpa")
    rng = np.random.default_rng(0)
    roll_in = rng.integers(0, 64, 200)
    rollouts = [
        Rollout(roll_in[:cut], rng.integers(0, 64, 50 + cut), label)
        for cut, label in ((60, 0), (130, 1), (190, 2), (200, 1))
    ]
    expected = gradient_of_loss(model, collate(rollouts, 1000), "sdpa")
    device = torch.device("cuda")
    implementation = choose_attention(name, packing, device)
    multiple = FLEX_BLOCK if implementation == "flex_attention" else None
    batch = collate(rollouts, 1000, packing, multiple)
    found = gradient_of_loss(model.to(device), batch, implementation)
    torch.testing.assert_close(found[0], expected[0], rtol=2e-2, atol=0)
    similarity = torch.cosine_similarity(found[1:], expected[1:], dim=0)
    assert similarity > 0.99


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_values_with_kept_prefixes_equal_those_of_a_cpu(dtype, tolerance):
    torch.manual_seed(0)
    model = Qwen2ForClassifier(build_tiny_config(initializer_range=0.1))
    rng = np.random.default_rng(0)
    prefix, first, *others = (rng.integers(0, 64, n).tolist() for n in (50, 30, 20, 7, 1))
    rounds = [[ScoringRequest(prefix, [first, *others])], [ScoringRequest(prefix + first, others)]]
    expected = [ValueScorer(model).score(requests)[0].values for requests in rounds]
    scorer = ValueScorer(model.to("cuda", dtype))
    for requests, values in zip(rounds, expected, strict=True):
        assert scorer.score(requests)[0].values == pytest.approx(values, abs=tolerance)
    assert scorer.tokens_computed == 50 + 30 + 2 * (20 + 7 + 1)
