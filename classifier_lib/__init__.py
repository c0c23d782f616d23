"""The value model: its definition, its losses, its data, its training and its evaluation.

The names below are for notebooks. They are imported on first use, so that a module of this package
that needs no model can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier_lib.loading import initialize_from_policy
    from classifier_lib.modeling import (
        ClassifierOutput,
        LlamaForClassifier,
        Qwen2ForClassifier,
        Qwen3ForClassifier,
        resolve_attention,
    )

__all__ = [
    "ClassifierOutput",
    "LlamaForClassifier",
    "Qwen2ForClassifier",
    "Qwen3ForClassifier",
    "initialize_from_policy",
    "resolve_attention",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "loading" if name == "initialize_from_policy" else "modeling"
    return getattr(import_module(f"{__name__}.{module}"), name)
