"""Where the thought of a response begins and ends: the tags of `--think_tags`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ThinkTags = Literal["auto", "none"] | tuple[str, str]
"""Value of `--think_tags`."""

THOUGHT_BEGIN = "<think>"
THOUGHT_END = "</think>"


@dataclass(frozen=True)
class Thoughts:
    """How a policy thinks before it answers.

    Attributes:
        begin: Text that begins a thought.
        end: Text that ends it.
        opened: Whether every prompt opens a thought, or none does; None if that is up to the
            template of the policy, as it is with DeepSeek-R1's.
    """

    begin: str = THOUGHT_BEGIN
    end: str = THOUGHT_END
    opened: bool | None = None

    @classmethod
    def of(cls, tags: str | Sequence[str]) -> "Thoughts":
        """Returns what a value of `--think_tags` means, also one that was read from JSON.

        Raises:
            ValueError: If a tag is empty, or the value is none of those of `ThinkTags`.
        """
        if tags == "auto":
            return cls()
        if tags == "none":
            return cls(opened=False)
        if isinstance(tags, str) or len(tags) != 2 or not all(tag.strip() for tag in tags):
            raise ValueError(f"{tags!r}: expected auto, none, or two tags that are not empty")
        begin, end = tags
        return cls(begin, end, opened=True)

    def mark(self, prompt: str, response: str) -> str | None:
        """Returns the text that must stand before an answer of this response: the end of a thought.

        Returns None for a response that thinks in the open: its prompt opens no thought, and
        neither does it. Its whole text is searched for the answer.
        """
        if self.opened is False:
            return None
        thinks = prompt.rstrip().endswith(self.begin.rstrip()) or self.begin in response
        return self.end if thinks or self.end in response else None


USUAL_THOUGHTS = Thoughts()
"""Those of `--think_tags auto`."""
