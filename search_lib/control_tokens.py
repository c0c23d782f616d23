"""Control tokens of a tokenizer, and texts in which none of them means anything."""

import json
import re
import secrets
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer

from search_lib.thoughts import Thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKUP = re.compile(r"\s*(<[|｜].*[|｜]>|</?(think|tool_call|tool_response)>)\s*", re.DOTALL)
"""Control tokens that many tokenizers have among the tokens that aren't special."""


class PlainEncoder:
    """Encodes texts that other people wrote, in templates with control tokens.

    The control tokens have names that no text can hold, in a copy of the tokenizer and in the
    templates: where a text spells a control token, it is plain text. All else is encoded as the
    tokenizer itself does, in one piece.

    Args:
        tokenizer: The tokenizer.
        control: Texts of its control tokens, by id.

    Raises:
        ValueError: If the tokenizer is not one of the tokenizers package; begins with its name.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", control: Mapping[int, str]):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(f"{tokenizer.name_or_path}: its tokenizer is not a fast one")
        self._original: Tokenizer = backend
        nonce = secrets.token_hex(8)
        self._names = {text: f"<{nonce}-{index}>" for index, text in control.items()}
        self._control = control_pattern(control)

    def rename(self, template: str) -> str:
        """Returns a part of a template with the new names of the control tokens in it."""
        return self._control.sub(lambda found: self._names[found[0]], template)

    def encode(self, text: str) -> Encoding:
        """Returns the tokens of texts and of renamed templates around them."""
        return self._renamed.encode(text, add_special_tokens=False)

    @cached_property
    def _renamed(self) -> Tokenizer:
        return rename_tokens(self._original.to_str(), self._names)


def control_pattern(control: Mapping[int, str]) -> re.Pattern[str]:
    """Returns what finds the texts of control tokens, the longest of those that begin alike."""
    longest_first = sorted(map(re.escape, control.values()), key=len, reverse=True)
    return re.compile("|".join(longest_first) or "(?!)")


def control_tokens(tokenizer: "PreTrainedTokenizerBase", thoughts: Thoughts) -> dict[int, str]:
    """Returns the texts of the tokens that no problem may hold, by id.

    They are the special tokens, and role tokens and tags that aren't declared as such. Further
    added tokens are words like any other (the toy task's symbols), and so is a special token of one
    character.
    """
    tags = {thoughts.begin.strip(), thoughts.end.strip()}
    return {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if (token.special and len(token.content) > 1)
        or _MARKUP.fullmatch(token.content)
        or token.content.strip() in tags
    }


def rename_tokens(backend: str, names: dict[str, str]) -> Tokenizer:
    """Returns a tokenizer in which tokens have other texts and the same ids.

    Args:
        backend: The tokenizer, serialized.
        names: New text by old text.
    """
    content = json.loads(backend)
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    # Some are tokens of the model, too. Where merges lead to one, they would give it to its text.
    model = content["model"]
    vocab = model["vocab"]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): index for text, index in vocab.items()}
    else:
        model["vocab"] = [[names.get(text, text), *more] for text, *more in vocab]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    # What adds tokens around a text knows them by their old names, and isn't used.
    content["post_processor"] = content["truncation"] = content["padding"] = None
    return Tokenizer.from_str(json.dumps(content))


def _makes(merge: list[str] | str, names: Collection[str]) -> bool:
    """Returns whether a merge of two tokens makes one of these, or is of one."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(parts) in names or any(part in names for part in parts)
