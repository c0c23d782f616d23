"""The value model: its definition, its losses, its data, its training and its evaluation.

What a notebook needs stands in this face, imported on first use: a module of this package that
needs no model can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifier_lib.modeling import (
        Qwen2ClassifierOutput,
        Qwen2ForClassifier,
        initialize_from_policy,
        resolve_attention,
    )

__all__ = [
    "Qwen2ClassifierOutput",
    "Qwen2ForClassifier",
    "initialize_from_policy",
    "resolve_attention",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("classifier_lib.modeling"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
