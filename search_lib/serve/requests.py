"""What clients may ask: OpenAI's requests, and how they name a search."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from search_lib.asking.outcome import VoteName

MAX_INTEGER = 2**63 - 1
"""Of all numbers in a request. A product of longer ones could not even be written in a message."""

MAX_MESSAGES = 1000
"""Of a conversation: chat templates take long for more, whatever they say."""


class Strict(BaseModel):
    """Takes fields that it knows, of their own types."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _tag_text(value: Any) -> str:
    return "(list)" if isinstance(value, list) else "(text)"


def _tag_prompt(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list):
        return "(lists of ids)"
    if isinstance(first, int):
        return "(ids)"
    return _tag_text(value)


def _tag_message(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else None
    return "(assistant)" if role == "assistant" else "(input)"


def _check_off(value: Any) -> bool:
    if value is not False:  # for Python 0 is as good
        raise PydanticCustomError("literal_error", "Input should be false")
    return False


Off = Annotated[Literal[False], BeforeValidator(_check_off)]


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


# Lists are read up to their first fault: one in each item of a megabyte would hold up all other
# requests for seconds.
Content = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[list[TextPart], Field(fail_fast=True), Tag("(list)")],
    Discriminator(_tag_text),
]


class InputMessage(Strict):
    """A message of the conversation so far."""

    role: Literal["system", "developer", "user"]
    content: Content
    name: str | None = Field(None, description="Without effect.")

    @property
    def text(self) -> str:
        """All that it says."""
        return _text_of(self.content)


class AssistantMessage(Strict):
    """A message of the policy, as a reply of this server may have it."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = Field(None, description="Without effect.")
    reasoning_content: str | None = Field(None, description="Left out of the prompt.")
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """All that it says."""
        return "" if self.content is None else _text_of(self.content)


def _text_of(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]


class SearchSettings(Strict):
    """The search of a request; what is left out is as the model's name and the server say."""

    search_type: Annotated[str, Field(max_length=100)] | None = None
    num_blocks: Count | None = None
    num_repetitions: Count | None = None
    block_size: Count | None = None
    stop: Literal["never", "decided", "beta", "value"] | None = None
    stop_confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    vote: VoteName | None = None


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool | None = None
    include_obfuscation: Off | None = None


Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[dict[str, Any], Field(max_length=0)]
NoItems = Annotated[list[Any], Field(max_length=0)]


class PlainText(Strict):
    """The format of all responses."""

    type: Literal["text"]


class Unsupported(Strict):
    """Parameters that this server lacks, with the values that ask for nothing."""

    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Nothing | None = None


class UnsupportedInChat(Unsupported):
    """As `Unsupported`, of chats alone."""

    tools: NoItems | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: NoItems | None = None
    function_call: Literal["none", "auto"] | None = None
    logprobs: Off | None = None
    top_logprobs: None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None


class UnsupportedInCompletions(Unsupported):
    """As `Unsupported`, of completions alone."""

    logprobs: None = None
    echo: Off | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


StopText = Annotated[str, Field(min_length=1)]


class SearchRequest(Strict):
    """What both kinds of request have."""

    model: Annotated[str, Field(max_length=500)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-MAX_INTEGER - 1, le=MAX_INTEGER)] | None = None
    n: Count | None = None
    max_tokens: Count | None = None
    stop: (
        Annotated[
            Annotated[StopText, Tag("(text)")]
            | Annotated[list[StopText], Field(max_length=4), Tag("(list)")],
            Discriminator(_tag_text),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    search: SearchSettings | None = None
    user: Any = Field(None, description="Without effect.")
    metadata: Any = Field(None, description="Without effect.")
    store: Any = Field(None, description="Without effect.")
    service_tier: Any = Field(None, description="Without effect.")

    @property
    def stops(self) -> list[str]:
        """Texts before which a response is cut."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of a response; None if that is up to the server."""
        return self.max_tokens


class ChatRequest(SearchRequest, UnsupportedInChat):
    """A question to search, as a conversation."""

    messages: Annotated[
        list[
            Annotated[
                Annotated[InputMessage, Tag("(input)")]
                | Annotated[AssistantMessage, Tag("(assistant)")],
                Discriminator(_tag_message),
            ]
        ],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    ]
    max_completion_tokens: Count | None = None

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of a response; None if that is up to the server."""
        return self.max_completion_tokens or self.max_tokens


TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]

TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]

Texts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]


class CompletionRequest(SearchRequest, UnsupportedInCompletions):
    """Prompts to continue, as they are."""

    prompt: Annotated[
        Annotated[str, Field(min_length=1), Tag("(text)")]
        | Annotated[TokenIds, Tag("(ids)")]
        | Annotated[Texts, Tag("(list)")]
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("(lists of ids)")],
        Discriminator(_tag_prompt),
    ]

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


UNSUPPORTED = frozenset(UnsupportedInChat.model_fields) | frozenset(
    UnsupportedInCompletions.model_fields
)
"""Fields of OpenAI's that this server lacks."""
