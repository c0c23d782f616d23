"""Answers of responses: extraction, and equality with a reference.

Imports neither math-verify nor sympy: only the grader's worker processes do.
"""

from search_lib.grading.answers import extract_answer
from search_lib.grading.grader import Grader

__all__ = ["Grader", "extract_answer"]
