"""Where the thought of a response begins and ends."""

THOUGHT_BEGIN = "<think>"
THOUGHT_END = "</think>"


def thought_mark(prompt: str, response: str) -> str | None:
    """Returns the mark that must stand before an answer of this response: the end of its thought.

    Returns None for a response that thinks in the open: its prompt opens no thought, and neither
    does it. Its whole text is searched for the answer.
    """
    thinks = prompt.rstrip().endswith(THOUGHT_BEGIN) or THOUGHT_BEGIN in response
    return THOUGHT_END if thinks or THOUGHT_END in response else None
