"""What clients are answered: OpenAI's replies, with the search beside each choice."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from search_lib.asking.live import LiveQuestion
from search_lib.asking.outcome import Candidate, Outcome, VoteName
from search_lib.serve.plans import Plan
from search_lib.thoughts import Thoughts

PIECE = 200
"""Characters of a piece of a response in a stream."""

FinishReason = Literal["stop", "length"]


class ErrorDetails(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The reply to a request that failed."""

    error: ErrorDetails


class VoteEntry(BaseModel):
    """An answer in the vote, with all responses that give it."""

    answer: str
    responses: int
    weight: float
    share: float


class Cost(BaseModel):
    """What the searches of a choice have cost; numbers that are not known are null."""

    tokens_generated: int | None
    tokens_scored: int | None
    tokens_cached: int | None
    seconds: float


class SearchReply(BaseModel):
    """How a choice was found."""

    answer: str | None
    vote: list[VoteEntry]
    vote_name: VoteName
    value: float | None
    share: float | None
    seed: int
    trees: int
    is_enough: bool
    failures: int
    cost: Cost


class ReplyMessage(BaseModel):
    """The chosen response."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None


class ChatChoice(BaseModel):
    """A choice of a chat."""

    index: int
    message: ReplyMessage
    finish_reason: FinishReason
    logprobs: None = None
    search: SearchReply


class CompletionChoice(BaseModel):
    """A choice of a completion."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: None = None
    search: SearchReply


class Usage(BaseModel):
    """Tokens: of the prompts, and all that were generated, those of dropped paths too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(BaseModel):
    """The reply to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: None = None


class CompletionReply(BaseModel):
    """The reply to a completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: None = None


class ModelReply(BaseModel):
    """A model, and the search that its name chooses."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models."""

    object: Literal["list"]
    data: list[ModelReply]


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"]


class Response(NamedTuple):
    """A response as clients see it.

    Attributes:
        thought: What stands before the end of its thought; None if it has none.
        content: What stands behind that.
        finish_reason: Why it ends.
    """

    thought: str | None
    content: str
    finish_reason: FinishReason


class Replies:
    """Makes the replies to one request.

    Args:
        plan: What the request came to.
        id: Its name.
        thoughts: How the policy thinks before it answers.
        prompt: The text of a chat's prompt.
    """

    def __init__(self, plan: Plan, id: str, thoughts: Thoughts, prompt: str):
        self._plan = plan
        self._id = id
        self._created = int(time.time())
        self._thoughts = thoughts
        self._prompt = prompt

    def whole(self, outcomes: Sequence[Outcome]) -> ChatReply | CompletionReply:
        """Returns the reply that is no stream."""
        named: dict[str, Any] = {
            "id": self._id,
            "created": self._created,
            "model": self._plan.model,
        }
        usage = self._usage(outcomes)
        if self._plan.is_chat:
            chats = [self._chat_choice(index, outcome) for index, outcome in enumerate(outcomes)]
            return ChatReply(**named, object="chat.completion", choices=chats, usage=usage)
        choices = [
            self._completion_choice(index, outcome) for index, outcome in enumerate(outcomes)
        ]
        return CompletionReply(**named, object="text_completion", choices=choices, usage=usage)

    def start(self) -> Iterator[dict[str, Any]]:
        """Yields what a stream begins with."""
        if self._plan.is_chat:
            for index in range(len(self._plan.asks)):
                yield self._chunk(index, {"role": "assistant", "content": ""})

    def progress(self, index: int, live: LiveQuestion) -> dict[str, Any]:
        """Returns how the searches of a choice stand."""
        paths = [path for tree in live.trees.values() for path in tree.paths()]
        values = [path.value for path in paths if path.value is not None]
        search = {
            "event": "progress",
            "choice": index,
            "trees": live.num_trees,
            "trees_done": live.num_done,
            "tokens_generated": live.num_tokens,
            "best_value": max(values, default=None),
            "vote": [entry.model_dump() for entry in _vote(live.vote)],
        }
        return self._chunk(index, {}) | {"search": search}

    def end(self, index: int, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """Yields the response of a choice, in pieces, and how it was found."""
        response = self._response(outcome)
        for field, text in (("reasoning_content", response.thought), ("content", response.content)):
            for start in range(0, len(text or ""), PIECE):
                yield self._chunk(index, {field: (text or "")[start : start + PIECE]})
        chunk = self._chunk(index, {}, response.finish_reason)
        chunk["choices"][0]["search"] = self._search(index, outcome).model_dump()
        yield chunk

    def usage(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Returns the last chunk of a stream that asked for it."""
        return self._frame() | {"choices": [], "usage": self._usage(outcomes).model_dump()}

    def _chat_choice(self, index: int, outcome: Outcome) -> ChatChoice:
        thought, content, finish_reason = self._response(outcome)
        return ChatChoice(
            index=index,
            message=ReplyMessage(role="assistant", content=content, reasoning_content=thought),
            finish_reason=finish_reason,
            search=self._search(index, outcome),
        )

    def _completion_choice(self, index: int, outcome: Outcome) -> CompletionChoice:
        response = self._response(outcome)
        return CompletionChoice(
            index=index,
            text=response.content,
            finish_reason=response.finish_reason,
            search=self._search(index, outcome),
        )

    def _response(self, outcome: Outcome) -> Response:
        thought, content = None, outcome.chosen.text
        if self._plan.is_chat:
            thought, content = split_thought(self._thoughts, self._prompt, content)
        cut = cut_before(content, self._plan.stops)
        is_stop = outcome.chosen.finished or len(cut) < len(content)
        return Response(thought, cut, "stop" if is_stop else "length")

    def _search(self, index: int, outcome: Outcome) -> SearchReply:
        cost = outcome.cost
        return SearchReply(
            answer=outcome.answer,
            vote=_vote(outcome.candidates),
            vote_name=outcome.vote,
            value=outcome.chosen.value,
            share=outcome.candidates[0].share if outcome.candidates else None,
            seed=self._plan.asks[index].flags.seed,
            trees=len(outcome.records),
            is_enough=any(record.is_enough for record in outcome.records),
            failures=len(outcome.failures),
            cost=Cost(
                tokens_generated=cost.tokens_generated,
                tokens_scored=cost.tokens_scored,
                tokens_cached=cost.tokens_cached,
                seconds=outcome.seconds,
            ),
        )

    def _usage(self, outcomes: Sequence[Outcome]) -> Usage:
        prompt, completion = self._plan.num_prompt_tokens, num_generated(outcomes)
        return Usage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )

    def _frame(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._plan.is_chat else "text_completion"
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._plan.model,
            "system_fingerprint": None,
        }

    def _chunk(
        self, index: int, delta: Mapping[str, str], finish_reason: FinishReason | None = None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason, "logprobs": None}
        choice |= {"delta": delta} if self._plan.is_chat else {"text": delta.get("content", "")}
        return self._frame() | {"choices": [choice]}


def as_event(content: Mapping[str, Any]) -> bytes:
    """Returns a server-sent event. In ASCII: some clients take more for line ends than others."""
    return f"data: {json.dumps(content)}\n\n".encode("ascii")


def split_thought(thoughts: Thoughts, prompt: str, text: str) -> tuple[str | None, str]:
    """Returns the thought of a response, None if it has none, and what stands behind it."""
    mark = thoughts.mark(prompt, text)
    if mark is None:
        return None, text
    thought, found, content = text.rpartition(mark)
    if not found:  # it never ended
        thought, content = text, ""
    return thought.removeprefix(thoughts.begin).strip("\n"), content.lstrip("\n")


def cut_before(text: str, stops: Sequence[str]) -> str:
    """Returns a text up to the first of some others in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


def num_generated(outcomes: Sequence[Outcome]) -> int:
    """Returns all tokens that were generated, as far as they are known."""
    return sum(outcome.cost.tokens_generated or 0 for outcome in outcomes)


def _vote(candidates: Sequence[Candidate]) -> list[VoteEntry]:
    return [
        VoteEntry(
            answer=one.answer, responses=one.num_responses, weight=one.weight, share=one.share
        )
        for one in candidates
    ]
