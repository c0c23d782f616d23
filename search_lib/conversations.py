"""Conversations as prompts: chat templates by model family, and messages in them as plain text."""

import re
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from run_lib.text import one_line
from search_lib.control_tokens import PlainEncoder, control_pattern, control_tokens
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

R1_BEGIN = "<｜begin▁of▁sentence｜>"
R1_USER = "<｜User｜>"
R1_ASSISTANT = "<｜Assistant｜>"

TEMPLATE_SECONDS = 20.0
"""A chat template is a program; one that takes this long doesn't end."""
TEMPLATE_DATE = datetime(2024, 7, 26)
"""What a chat template that writes the date takes for today: Llama 3's own default. With the real
one, prompts would change overnight, and with them a run that goes on the next day."""
MAX_TEMPLATE_LENGTH = 1_000_000
"""Most characters of a template around the messages; real ones have some thousands."""
KEPT_FRAMES = 64
"""Kinds of conversation whose frames are kept."""
KEPT_SIZE = 200
"""Messages of the longest kind that is kept, with the characters of blank ones."""

ROLES = ("system", "developer", "user", "assistant")


class ControlTokensInProblem(ValueError):
    """A problem holds control tokens, and can't be encoded without them."""


class Message(NamedTuple):
    """A message of a conversation.

    Attributes:
        role: One of `ROLES`; a developer is the system.
        content: What is said.
    """

    role: str
    content: str


class _Frame(NamedTuple):
    """The prompt around the messages of a conversation.

    Attributes:
        parts: Texts before, between and behind the messages.
        places: Which message stands behind each part but the last.
        control: The control tokens in it, in order.
    """

    parts: list[str]
    places: list[int]
    control: list[int]


class ConversationTemplate:
    """The prompt template of a policy, which ends where the policy's thought begins.

    A tokenizer with DeepSeek-R1's role tokens gets the template of the VGS paper, with further
    turns as DeepSeek's own template writes them; any other one its own chat template, and behind
    that the tag that begins a thought, if prompts are to open one and the template doesn't. Control
    tokens are the template's and the instruction's: where a message has the text of one, it is
    encoded as plain text. So no message can end its turn or begin another one, where turns are
    marked by control tokens, and not by words such as Llama 2's `[INST]`. Of what the policy has
    said before, the thoughts are left out.

    Args:
        tokenizer: Tokenizer of the policy.
        instruction: Appended to the last message (`benchmarks.MATH_INSTRUCTION` for mathematics).
        thoughts: How the policy thinks before it answers.

    Raises:
        ValueError: If the tokenizer has neither kind of template, or its own can't be used: it
            fails, doesn't end, or doesn't show a question as it is. Begins with its name.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        instruction: str,
        thoughts: Thoughts = USUAL_THOUGHTS,
    ):
        self._tokenizer = tokenizer
        self._instruction = instruction
        self._end_of_thought = thoughts.end.strip()
        self._fill = _find_template(tokenizer, thoughts)
        self._control = control_tokens(tokenizer, thoughts)
        self._pattern = control_pattern(self._control)
        self._kept_frame = lru_cache(maxsize=KEPT_FRAMES)(self._make_frame)
        self._kept_frame((Message("user", "?"),))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Returns the token ids of the prompt that asks for the next message.

        Args:
            messages: The conversation; the last message is the user's.

        Raises:
            ControlTokensInProblem: If a message has the text of a control token, and can't be
                found in the chat template or encoded without the token.
            ValueError: If it isn't such a conversation, or the chat template refuses it, leaves out
                a message or changes it. Unless the former, both begin with the tokenizer's name.
        """
        said = [self._spoken(message) for message in check_roles(messages)]
        kind = tuple(one if not one.content.strip() else Message(one.role, "?") for one in said)
        size = len(kind) + sum(len(one.content) for one in kind)
        frame = self._kept_frame(kind) if size <= KEPT_SIZE else self._make_frame(kind)
        text = self._fill(self._instructed(said))
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        is_plain = not any(self._pattern.search(message.content) for message in said)
        if is_plain and self._control_ids(ids) == frame.control:
            return ids
        ids = self._encode_plainly(text, frame, [message.content for message in said])
        if self._control_ids(ids) != frame.control:
            raise ControlTokensInProblem(
                f"{self._tokenizer.name_or_path}: its tokenizer can't encode the control tokens in "
                "a message as plain text"
            )
        return ids

    def _spoken(self, message: Message) -> Message:
        """Returns a message without its thought."""
        if message.role != "assistant":
            return message
        *thought, answer = message.content.split(self._end_of_thought)
        return Message("assistant", answer.lstrip("\n") if thought else answer)

    def _instructed(self, messages: Sequence[Message]) -> list[Message]:
        *before, last = messages
        return [*before, Message(last.role, last.content + self._instruction)]

    def _control_ids(self, ids: list[int]) -> list[int]:
        return [index for index in ids if index in self._control]

    def _make_frame(self, kind: tuple[Message, ...]) -> _Frame:
        """Returns the prompt around the messages of a kind of conversation.

        Args:
            kind: Its messages. Any text stands for all those that have one; templates make
                exceptions of blank ones.
        """
        name = self._tokenizer.name_or_path
        nonce = secrets.token_hex(8)
        filled = [place for place, message in enumerate(kind) if message.content.strip()]
        stand_ins = list(kind)
        for place in filled:
            stand_ins[place] = Message(kind[place].role, f"aMessage{nonce}N{place}N")
        text = try_template(lambda: self._fill(self._instructed(stand_ins)), name)
        found = re.split(rf"aMessage{nonce}N(\d+)N", text)
        places = [int(place) for place in found[1::2]]
        shown = set(places)
        for place in filled:
            if place not in shown:
                what = f"message {place + 1} ({kind[place].role})"
                what = "the question" if place == len(kind) - 1 else what
                raise ValueError(f"{name}: its chat template leaves out {what} or changes it")
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return _Frame(found[::2], places, self._control_ids(ids))

    @cached_property
    def _plain(self) -> PlainEncoder:
        return PlainEncoder(self._tokenizer, self._control)

    def _encode_plainly(self, text: str, frame: _Frame, contents: Sequence[str]) -> list[int]:
        """Encodes a prompt whose messages have the text of control tokens."""
        name = self._tokenizer.name_or_path
        shown = _find_messages(text, frame, contents)
        if shown is None:
            raise ControlTokensInProblem(
                f"{name}: its chat template changes a message that has the text of control tokens"
            )
        try:
            parts = [self._plain.rename(part) for part in frame.parts]
        except ValueError as error:
            raise ControlTokensInProblem(f"{error}, and a message has control tokens") from error
        whole = parts[0] + "".join(map("".join, zip(shown, parts[1:], strict=True)))
        return self._plain.encode(whole).ids


def check_roles(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages of a conversation with a developer as the system.

    Raises:
        ValueError: If there are none, if one has another role, or if the last isn't the user's.
    """
    for number, message in enumerate(messages, start=1):
        if message.role not in ROLES:
            raise ValueError(
                f"message {number} has the role {message.role!r}, none of {', '.join(ROLES)}"
            )
    if not messages or messages[-1].role != "user":
        raise ValueError("the last message is not the user's")
    return [
        Message("system" if role == "developer" else role, content) for role, content in messages
    ]


def _find_messages(text: str, frame: _Frame, contents: Sequence[str]) -> list[str] | None:
    """Returns what a template has made of the messages: mostly what it does is to trim them.

    Args:
        text: The prompt.
        frame: What stands around the messages in it.
        contents: The messages.

    Returns:
        A text for each of the frame's places; None if the template has changed a message.
    """
    shown = []
    end = len(frame.parts[0])
    if not text.startswith(frame.parts[0]):
        return None
    for place, part in zip(frame.places, frame.parts[1:], strict=True):
        content = contents[place]
        ways = (content, content.rstrip(), content.lstrip(), content.strip())
        for way in ways:
            if text.startswith(way, end) and text.startswith(part, end + len(way)):
                break
        else:
            return None
        shown.append(way)
        end += len(way) + len(part)
    return shown if end == len(text) else None


def _find_template(
    tokenizer: "PreTrainedTokenizerBase", thoughts: Thoughts
) -> Callable[[Sequence[Message]], str]:
    """Returns the function that puts messages into the template of a tokenizer."""
    opening = f"{thoughts.begin.rstrip()}\n"
    if all(_is_token(tokenizer, token) for token in (R1_BEGIN, R1_USER, R1_ASSISTANT)):
        return lambda messages: _fill_r1(
            messages, tokenizer.eos_token or "", "" if thoughts.opened is False else opening
        )
    if not tokenizer.chat_template:
        raise ValueError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template and is not of the "
            "DeepSeek-R1 family: no prompt template fits it"
        )

    settings: dict[str, Any] = {"strftime_now": TEMPLATE_DATE.strftime}
    if thoughts.opened is not None:
        # Templates of models that may think or not (Qwen3, SmolLM3) ask for this.
        settings["enable_thinking"] = thoughts.opened

    def fill(messages: Sequence[Message]) -> str:
        try:
            text = str(
                tokenizer.apply_chat_template(
                    [message._asdict() for message in messages],
                    tokenize=False,
                    add_generation_prompt=True,
                    **settings,
                )
            )
        except Exception as error:  # a template is a program
            raise ValueError(
                f"{tokenizer.name_or_path}: its chat template fails: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
        is_open = text.rstrip().endswith(thoughts.begin.rstrip())
        return text + opening if thoughts.opened and not is_open else text

    return fill


def _fill_r1(messages: Sequence[Message], end: str, opening: str) -> str:
    """Returns a prompt as the template of DeepSeek-R1's tokenizer writes it.

    Args:
        messages: The messages. Those of the system stand ahead of all others.
        end: The token that ends an answer.
        opening: Begins the thought.
    """
    system = "\n\n".join(content for role, content in messages if role == "system")
    around = {"user": (R1_USER, ""), "assistant": (R1_ASSISTANT, end)}
    turns = [content.join(around[role]) for role, content in messages if role != "system"]
    return f"{R1_BEGIN}{system}{''.join(turns)}{R1_ASSISTANT}{opening}"


def try_template(fill: Callable[[], str], name: str) -> str:
    """Fills a template for the first time; ValueError if it doesn't end or its text is immense."""
    outcome: Future[str] = Future()

    def work() -> None:
        try:
            outcome.set_result(fill())
        except ValueError as error:
            outcome.set_exception(error)

    # Left alone if it doesn't end; a daemon doesn't keep the process alive.
    threading.Thread(target=work, name="chat-template", daemon=True).start()
    try:
        text = outcome.result(timeout=TEMPLATE_SECONDS)
    except TimeoutError as error:
        raise ValueError(
            f"{name}: its chat template has not ended after {TEMPLATE_SECONDS:g} s"
        ) from error
    if len(text) > MAX_TEMPLATE_LENGTH:
        raise ValueError(f"{name}: its chat template makes a text of {len(text):,} characters")
    return text


def _is_token(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    # Not by get_vocab: that copies 150,000 entries for every prompt.
    index = tokenizer.convert_tokens_to_ids(token)
    return isinstance(index, int) and tokenizer.convert_ids_to_tokens(index) == token
