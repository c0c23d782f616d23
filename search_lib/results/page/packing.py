"""How data stands in the page: JSON that no browser takes for markup, and long parts compressed."""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

TEXT_BUDGET = 14 * 2**20
"""Most bytes that the texts of a page take, compressed."""

_FIRST_GUESS = 64
"""Texts that are compressed to learn how well the others will be."""


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


def longest_that_fits(texts: Sequence[str], budget: int = TEXT_BUDGET) -> int | None:
    """Returns how many characters of each text a page has room for; None if for all.

    Longer texts lose their middle. How well they compress is guessed from some of them.

    Args:
        texts: All texts of the page.
        budget: Most bytes that they may take, compressed.
    """
    total = sum(map(len, texts))
    some = texts[:: max(1, len(texts) // _FIRST_GUESS)]
    characters = sum(map(len, some))
    if not characters:
        return None
    ratio = sum(len(compress(text)) for text in some) / characters
    room = budget / ratio
    if total <= room:
        return None
    low, high = 0, max(map(len, texts))
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(len(text), middle) for text in texts) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def excerpt(text: str, longest: int | None) -> list[Any]:
    """Returns [text], or [its beginning, how many characters are left out, its end].

    Args:
        text: The text.
        longest: Most characters; None for all. The end, where the answer is, has a third of them.
    """
    if longest is None or len(text) <= longest:
        return [text]
    end = longest // 3
    return [text[: longest - end], len(text) - longest, text[len(text) - end :]]
