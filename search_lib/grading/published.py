"""Comparison of answers as the published code has it (`search_lib.answer_rules`, rule 4)."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

DECIMALS = 5


def load_published() -> tuple[Callable[[str], list[Any]], Callable[[str, str], bool]]:
    """Imports math-verify and returns the reading of an answer, and the check of two.

    An answer is read inside `$...$`, by the first kind of match that gives mathematics: LaTeX, or a
    plain number or expression somewhere in it. Neither function has limits of its own.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # The second one has sympy call `eval`, but only on digits and operators.
    configuration = (LatexExtractionConfig(), ExprExtractionConfig())

    @lru_cache(maxsize=256)
    def parts_of(text: str) -> list[Any]:
        return parse(f"${text}$", configuration, extraction_mode="any_match", parsing_timeout=None)

    def equal(reference: str, answer: str) -> bool:
        left, right = parts_of(reference), parts_of(answer)
        return any(
            verify(gold, target, float_rounding=DECIMALS, timeout_seconds=None)
            for gold, target in ((left, right), (right, left))
        )

    return parts_of, equal
