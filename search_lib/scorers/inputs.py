"""Inputs of scorers with a tokenizer of their own: problem and response are plain text in them."""

import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from run_lib.text import one_line
from search_lib.control_tokens import PlainEncoder, control_tokens
from search_lib.conversations import try_template
from search_lib.thoughts import USUAL_THOUGHTS

Piece = str | int
"""A text that is encoded by itself, or a token id."""


class ScorerInput(NamedTuple):
    """The tokens that a scorer reads.

    Attributes:
        ids: Token ids of the scorer's tokenizer.
        reads: Positions of the tokens after which a score is read, in order.
        shared: Tokens that every response to the problem begins with, at least one, and not all.
    """

    ids: list[int]
    reads: list[int]
    shared: int = 1


class TextReader(Protocol):
    """How a model reads texts."""

    @property
    def context(self) -> int:
        """Most tokens that it reads."""
        ...

    def encode(self, problem: str, response: str) -> ScorerInput:
        """Returns the tokens of a response so far."""
        ...


def read_texts(reader: TextReader, problem: str, responses: Sequence[str]) -> list[ScorerInput]:
    """Returns the inputs of the responses to a problem.

    Raises:
        ValueError: If one is longer than the model reads.
    """
    inputs = [reader.encode(problem, response) for response in responses]
    empty = reader.encode(problem, "").ids
    inputs = [one._replace(shared=_common_start(one.ids, empty)) for one in inputs]
    longest = max((len(one.ids) for one in inputs), default=0)
    if longest > reader.context:
        raise ValueError(
            f"a response with its problem is {longest} tokens of the scorer, which reads "
            f"{reader.context}"
        )
    return inputs


def _common_start(ids: list[int], others: list[int]) -> int:
    """Returns how many tokens two lists begin with, from 1 to all but one of the first."""
    end = min(len(ids) - 1, len(others))
    return max(1, next((n for n in range(end) if ids[n] != others[n]), end))


class Draft:
    """One input in the making: a text with holes for what the problem and the policy say.

    Args:
        tokenizer: Tokenizer of the scorer.
        nonce: Marks holes; no text has it.
        start: The tokens that the tokenizer itself puts ahead of any text.

    Attributes:
        read: Stands behind the token after which a score is read.
        texts: What fills the holes.
        start: See above.
        bos: The token that begins a text, if the tokenizer has one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, nonce: str, start: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._nonce = nonce
        self.read = f"{nonce}!"
        self.texts: list[str] = []
        self.start = start
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def plain(self, text: str) -> str:
        """Returns a hole for a text, in which no control token means anything."""
        self.texts.append(text)
        return f"{self._nonce}{len(self.texts) - 1};"

    def chat(self, *turns: tuple[str, str]) -> str:
        """Returns a conversation of (role, text) in the tokenizer's chat template.

        Raises:
            ValueError: If the template fails; begins with the tokenizer's name.
        """
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template is a program
            raise ValueError(
                f"{self._tokenizer.name_or_path}: its chat template fails: "
                f"{type(error).__name__}: {one_line(error)}"
            ) from error


class InputEncoder:
    """Encodes drafts. Where a hole's text spells a control token, it is encoded as plain text.

    The control tokens have other names in a copy of the tokenizer, and in what stands around the
    holes. Anything else is encoded as the tokenizer itself does, holes and template in one piece.

    Args:
        tokenizer: Tokenizer of the scorer.
        tags: Further tokens that no text may hold, if the tokenizer has them as added tokens.

    Raises:
        ValueError: If the tokenizer is not one of the tokenizers package; begins with its name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tags: Sequence[str] = ()):
        control = control_tokens(tokenizer, USUAL_THOUGHTS)
        added = tokenizer.added_tokens_decoder.items()
        control |= {index: token.content for index, token in added if token.content in tags}
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        bare, ids = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        places = range(len(ids))
        no_start: list[int] = []
        self._start = next((ids[:n] for n in places if ids[n:][: len(bare)] == bare), no_start)
        self._hole = re.compile(rf"{self._nonce}(?:(\d+);|(!))")
        self._plain = PlainEncoder(tokenizer, control)

    def draft(self) -> Draft:
        """Returns an empty draft."""
        return Draft(self._tokenizer, self._nonce, self._start)

    def encode(self, draft: Draft, pieces: Sequence[Piece]) -> ScorerInput:
        """Returns the tokens of the pieces of a draft, one after another.

        Safe to call from several threads.

        Raises:
            ValueError: If the tokenizer drops a character behind which a score is read.
        """
        ids: list[int] = []
        reads: list[int] = []
        for piece in pieces:
            if isinstance(piece, int):
                ids.append(piece)
                continue
            text, ends = self._fill(draft, piece)
            encoding = self._plain.encode(text)
            for end in ends:
                token = encoding.char_to_token(end - 1)
                if token is None:
                    raise ValueError(
                        f"{self._tokenizer.name_or_path}: its tokenizer drops the end of a step"
                    )
                reads.append(len(ids) + token)
            ids += encoding.ids
        return ScorerInput(ids, reads)

    def _fill(self, draft: Draft, piece: str) -> tuple[str, list[int]]:
        """Returns the text of a piece, and the characters behind which scores are read."""
        text, ends, start = "", [], 0
        for hole in self._hole.finditer(piece):
            text += self._plain.rename(piece[start : hole.start()])
            if hole[2]:
                ends.append(len(text))
            else:
                text += draft.texts[int(hole[1])]
            start = hole.end()
        return text + self._plain.rename(piece[start:]), ends


class ConversationReader:
    """Lays out problem and response as a conversation in the chat template of a reward model.

    A response that isn't finished stands in a closed turn, too.

    Args:
        tokenizer: Tokenizer of the model.
        context: Most tokens that the model reads.

    Raises:
        ValueError: If the tokenizer has no template that shows both; begins with its name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int):
        self._trims = check_chat_template(tokenizer)
        self.context = context
        self._encoder = InputEncoder(tokenizer)

    def encode(self, problem: str, response: str) -> ScorerInput:
        """Returns the tokens of a response so far, with one score to read at the end."""
        if self._trims:
            problem, response = problem.strip(), response.strip()
        draft = self._encoder.draft()
        turns = ("user", draft.plain(problem)), ("assistant", draft.plain(response))
        ids = self._encoder.encode(draft, [draft.chat(*turns)]).ids
        return ScorerInput(ids, [len(ids) - 1])


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a tokenizer's chat template trims what is said.

    Raises:
        ValueError: Unless there is one that ends, and that shows what is said; begins with the
            tokenizer's name.
    """
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ValueError(f"{name}: its tokenizer has no chat template")
    draft = Draft(tokenizer, secrets.token_hex(8))

    stand_in = draft.read
    turns = ("user", f" {stand_in} "), ("assistant", f" {stand_in} ")
    chat = try_template(lambda: draft.chat(*turns), name)
    if chat.count(stand_in) != 2:
        raise ValueError(f"{name}: its chat template leaves out what is said, or changes it")
    return chat.count(f" {stand_in} ") != 2
