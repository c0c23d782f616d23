"""What a plan will cost: FLOPs by the accounting of `metrics.json`, before anything has run.

    policy       2 N tokens + 4 width contexts
    scorer       the same, of the tokens it scores
    training     3 x forward, each epoch
    GPU hours    FLOPs / (FLOP/s that a GPU sustains) / 3600

N and width are those of `classifier_lib.flops.ModelSize`, and the definitions those of
`search_lib.results.cost`. A response of T tokens behind a prompt of P has T P + T (T + 1) / 2
contexts. All responses are taken to be of the mean length, which is a little too cheap.
"""

from pathlib import Path
from typing import Any

from classifier_lib.flops import VALUE_MODEL, ModelSize, Shape
from run_lib.settings import read_document

_QWEN_1_5B = Shape(1536, 8960, 28, 12, 2, 151_936)
_QWEN_7B = Shape(3584, 18_944, 28, 28, 4, 152_064)

KNOWN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _QWEN_1_5B.policy,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _QWEN_7B.policy,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": Shape(5120, 13_824, 48, 40, 8, 152_064).policy,
    "VGS-AI/DeepSeek-VM-1.5B": _QWEN_1_5B.value_model,
    "Qwen/Qwen2.5-Math-PRM-7B": _QWEN_7B.step_prm,
    "deepseek-ai/deepseek-math-7b-instruct": Shape(4096, 11_008, 30, 32, 32, 102_400).policy,
    "meta-llama/Meta-Llama-3-8B-Instruct": Shape(4096, 14_336, 32, 32, 8, 128_256).policy,
}
"""Sizes of the papers' models, so that a plan needs no hub."""


def find_size(model: str) -> ModelSize | None:
    """Returns the size of one of the papers' models, or of a folder's; None if it is not known.

    Raises:
        InputError: If the folder's config.json is damaged.
    """
    return KNOWN.get(model) or read_document(Path(model) / "config.json", _parse_config)


def _parse_config(config: dict[str, Any]) -> ModelSize:
    shape = Shape(**{name: config[name] for name in Shape.__annotations__ if name in config})
    architectures = config.get("architectures") or []
    is_value_model = any(name.endswith(VALUE_MODEL) for name in architectures)
    return shape.value_model if is_value_model else shape.policy


def forward(size: ModelSize, responses: int, tokens: int, prompt: int) -> float:
    """Returns the FLOPs of a model for responses behind prompts; the prompts themselves left out.

    Args:
        size: The model.
        responses: Their number.
        tokens: Tokens of each.
        prompt: Tokens of each one's prompt.
    """
    contexts = tokens * prompt + tokens * (tokens + 1) // 2
    return size.forward_flops(responses * tokens, responses * contexts)


def hours(flops: float, flops_per_second: float) -> float:
    """Returns the hours of one GPU that sustains so many FLOP/s."""
    return flops / flops_per_second / 3600
