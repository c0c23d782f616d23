"""Parts of answers: what stands between top-level commas, and inside a pair of brackets."""

import re

from search_lib.grading.limits import MAX_DEPTH

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_OPENING = frozenset(["(", "[", "{", r"\{", r"\lfloor", r"\lceil", r"\begin"])
_CLOSING = frozenset([")", "]", "}", r"\}", r"\rfloor", r"\rceil", r"\end"])
_UNIT_AND = re.compile(r"(\d\s*\\text\s*\{[^{}]*?[A-Za-z])\s*,?\s+(?:and|or)\s*\}")
_COMPOUND = re.compile(  # 5 ft 6 in
    r"(\d\s*\\text\s*\{\s*[A-Za-z]+\s*\}|(?<![A-Za-z])\d+ [a-z]{2,})\s*"
    r"(?=\d+(?:\.\d+)?\s*(?:\\text\s*\{\s*[A-Za-z]|[a-z]{2}))"
)
_AND = re.compile(
    r",?\s*(?:\\text\s*\{\s*(?:,?\s*(?:and|or)|,|;)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\(?:lor|vee)(?![A-Za-z]))\s*"
)


def is_deep(text: str) -> bool:
    """Returns whether brackets nest too deep to be read."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth > MAX_DEPTH:
            return True
    return False


def split_top_level(text: str, separators: str) -> list[str]:
    r"""Returns the parts between separators that stand in no brackets, stripped.

    Brackets of different kinds may close each other, as those of `[0,1)` do.
    """
    parts, depth, start = [], 0, 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth == 0 and token[0] in separators:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    return [*parts, text[start:].strip()]


def strip_group(text: str, left: str, rights: str) -> str | None:
    """Returns what is inside if the whole text is one pair of brackets, else None.

    Args:
        text: Without surrounding whitespace.
        left: The opening bracket.
        rights: The closing one, or several of one character.
    """
    closing = [rights] if rights.startswith("\\") else list(rights)
    if not text.startswith(left):
        return None
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth <= 0:
            whole = token.end() == len(text) and token[0] in closing
            return text[len(left) : token.start()].strip() if whole else None
    return None


def words_as_commas(text: str) -> str:
    r"""Replaces "and" and "or" between answers, in `\text` or not, by commas.

    Amounts that stand side by side, as in `5 ft 6 in`, get one, too.
    """
    return _COMPOUND.sub(r"\1, ", _AND.sub(", ", _UNIT_AND.sub(r"\1}, ", text)))
