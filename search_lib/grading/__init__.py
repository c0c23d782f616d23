"""Answers of responses: extraction, and equality with a reference.

Imports neither math-verify nor sympy: only the grader's worker processes do. The names below are
imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_lib.grading.answers import extract_answer
    from search_lib.grading.grader import Grader

__all__ = ["Grader", "extract_answer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "grader" if name == "Grader" else "answers"
    return getattr(import_module(f"{__name__}.{module}"), name)
