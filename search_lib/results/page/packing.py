"""How data stands in the page: JSON that no browser takes for markup, and long parts compressed."""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

TEXT_BUDGET = 14 * 2**20
"""Most bytes that the texts of a page take, compressed."""


def to_json(content: Any) -> str:
    """Returns JSON that may stand within a `<script>`.

    What could end the element or begin another is escaped: text of a model stays text.

    Raises:
        ValueError: If there is a number that isn't finite, which JSON doesn't know.
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def compress(content: Any) -> str:
    """Returns JSON as base64 of raw DEFLATE, as `DecompressionStream("deflate-raw")` reads it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half of a surrogate pair, which UTF-8 doesn't take, becomes JSON's escape for it.
    packer = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(text.encode("utf-8", errors="backslashreplace")) + packer.flush()
    return base64.b64encode(packed).decode()


def decompress(packed: str) -> Any:
    """Returns what `compress` packed."""
    return json.loads(zlib.decompress(base64.b64decode(packed), wbits=-zlib.MAX_WBITS))


def longest_that_fits(lengths: Sequence[int], ratio: float, budget: int) -> int | None:
    """Returns how many characters of each text a page has room for; None if for all.

    Args:
        lengths: Characters of all texts of the page.
        ratio: Bytes that a character takes, compressed.
        budget: Most bytes that the texts may take.
    """
    if sum(lengths) * ratio <= budget:
        return None
    low, high = 0, max(lengths)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) * ratio <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def cut(length: int, longest: int | None) -> tuple[int, int]:
    """Returns where the middle that is left out begins and ends; equal where nothing is.

    Args:
        length: Length of a text.
        longest: Most of it that is shown; None for all. The end, where the answer is, has a third.
    """
    if longest is None or length <= longest:
        return length, length
    return longest - longest // 3, length - longest // 3
