"""The value model: its definition, its losses, its data, its training and its evaluation."""

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
