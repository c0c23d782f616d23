import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config

from classifier_lib.flops import ModelSize, TokenCounts
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training import throughput
from classifier_lib.training.throughput import Throughput, peak_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 3090", None),
    ],
)
def test_peak_flops_by_name(monkeypatch, name, flops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == flops
    assert peak_flops(CPU) is None


def test_model_size_counted_by_hand(tiny_config):
    hidden, inner, head_dim, layers = 32, 48, 8, 2
    attention = hidden * 4 * head_dim + 2 * hidden * 2 * head_dim + 4 * head_dim * hidden
    matrices = layers * (attention + 3 * hidden * inner) + hidden * hidden + hidden * 3
    assert ModelSize.of(Qwen2ForClassifier(tiny_config)) == ModelSize(
        matrices, layers * 4 * head_dim
    )


@pytest.mark.parametrize("head_dim", [8, 16])
def test_training_flops_are_those_that_torch_counts(tiny_config, head_dim):
    config = Qwen2Config(**{**tiny_config.to_dict(), "head_dim": head_dim})
    model = Qwen2ForClassifier._from_config(config, attn_implementation="eager")
    length = 48
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, length, dtype=torch.long)).logits.sum().backward()
    # Eager attention computes all pairs, also those that it hides.
    counts = TokenCounts(0, length, 0, 0, length * length)
    flops = ModelSize.of(model).training_flops(counts)
    assert flops == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_padding_costs_no_useful_flops():
    size = ModelSize(1000, 10)
    counts = TokenCounts(all=100, computed=50, valid=80, loss=20, attended=700)
    assert size.training_flops(counts) == 6 * 1000 * 50 + 12 * 10 * 700
    assert size.training_flops(counts._replace(all=200)) == size.training_flops(counts)


def test_rates_over_the_steps_since_the_last_report(monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 1e5)
    size = ModelSize(1000, 10)
    speed = Throughput(size, 4, CPU)
    counts = TokenCounts(100, 50, 80, 20, 700)
    more = TokenCounts(60, 30, 40, 10, 100)
    speed.add(1.5, counts, [30, 50])
    speed.add(0.5, more, [10, 30])
    assert speed.report() == {
        "tokens_per_second/all": 80,
        "tokens_per_second/valid": 60,
        "tokens_per_second/loss": 15,
        "step_time": 1,
        "loss_tokens": 15,
        "avg_length": 30,
        "max_length": 50,
        "mfu": pytest.approx((6 * 1000 * 80 + 12 * 10 * 800) / 2 / 4e5),
    }
    speed.add(1.0, more, [40])
    again = speed.report()
    assert (again["tokens_per_second/all"], again["max_length"]) == (60, 40)


def test_no_mfu_on_an_unknown_device():
    speed = Throughput(ModelSize(1000, 10), 1, CPU)
    speed.add(2.0, TokenCounts(4, 3, 2, 2, 1), [2])
    assert "mfu" not in speed.report()
