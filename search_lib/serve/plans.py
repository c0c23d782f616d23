"""Turns a request into the searches that answer it."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from run_lib.commands import InputError
from run_lib.seeds import derive_seed
from run_lib.text import one_line
from search_lib.asking.asker import Question
from search_lib.asking.outcome import VoteName
from search_lib.conversations import ConversationTemplate, Message
from search_lib.engines.base import Sampling
from search_lib.jobs import Policy
from search_lib.search_flags import SearchFlags
from search_lib.serve.args import ServeFlags
from search_lib.serve.errors import bad_request, of_flags
from search_lib.serve.model_names import ModelNames
from search_lib.serve.requests import ChatRequest, CompletionRequest, SearchRequest
from search_lib.strategies.base import StrategySettings

SEED_BITS = 53
"""Seeds that replies name are whole numbers in any language."""

LEAST_TEMPERATURE = 1e-6
"""Below it, logits divided by it would not be finite: it is greedy decoding."""


@dataclass(frozen=True)
class Ask:
    """What one choice of a reply answers.

    Attributes:
        question: The question, with its prompt.
        flags: Its search.
    """

    question: Question
    flags: SearchFlags


@dataclass(frozen=True)
class Plan:
    """What a request comes to.

    Attributes:
        model: Name of its search.
        asks: What each choice answers.
        vote: How answers vote; None for what is usual.
        stops: Texts before which a response is cut.
        num_prompt_tokens: Tokens of its prompts, each counted once.
        is_chat: Whether it is a conversation.
        streams: Whether the reply is a stream.
        includes_usage: Whether a stream ends with its usage.
    """

    model: str
    asks: list[Ask]
    vote: VoteName | None
    stops: list[str]
    num_prompt_tokens: int
    is_chat: bool
    streams: bool
    includes_usage: bool


class Planner:
    """Makes plans of requests, and refuses what can't be searched.

    Args:
        flags: The server's flags: the default search, and the limits.
        policy: The policy.
        template: Makes a prompt of a conversation.
        context: Most tokens of a path that all models can read.
        executor: One thread, in which texts become tokens: that of a megabyte takes a second.
    """

    def __init__(
        self,
        flags: ServeFlags,
        policy: Policy,
        template: ConversationTemplate,
        context: int,
        executor: Executor,
    ):
        self.names = ModelNames(flags.policy_name, flags)
        self._flags = flags
        self._tokenizer = policy.tokenizer
        self._num_ids = max(policy.tokenizer.get_vocab().values()) + 1
        self._template = template
        self._context = context
        self._executor = executor

    async def plan(self, request: SearchRequest) -> Plan:
        """Returns what a request comes to.

        Raises:
            ApiError: If it can't be searched, or asks for more than the limits allow.
        """
        flags = self.search(request)
        num_choices = request.n or 1
        if isinstance(request, CompletionRequest):
            num_prompts = len(request.prompts)
            read: Callable[[], list[tuple[str, list[int]]]] = partial(self._read_prompts, request)
        else:
            assert isinstance(request, ChatRequest)
            num_prompts = 1
            read = partial(self._read_conversation, request)
        budget = flags.num_blocks * flags.num_repetitions * num_choices * num_prompts
        if budget > self._flags.max_budget:
            raise bad_request(
                f"The request has a budget of {budget} blocks (blocks x trees x n x prompts); the "
                f"server allows {self._flags.max_budget}.",
                code="budget_exceeded",
            )
        prompts = await asyncio.get_running_loop().run_in_executor(self._executor, read)
        for _, ids in prompts:
            self._check_length(len(ids), flags.max_length)
        asks = [
            Ask(Question(text, ids), replace(flags, seed=choice_seed(flags.seed, choice)))
            for text, ids in prompts
            for choice in range(num_choices)
        ]
        options = request.stream_options
        return Plan(
            model=self.names.of(flags),
            asks=asks,
            vote=request.search.vote if request.search else None,
            stops=request.stops,
            num_prompt_tokens=sum(len(ids) for _, ids in prompts),
            is_chat=isinstance(request, ChatRequest),
            streams=bool(request.stream),
            includes_usage=bool(options and options.include_usage),
        )

    def search(self, request: SearchRequest) -> SearchFlags:
        """Returns the search of a request, whatever it asks; raises ApiError if there is none."""
        chosen = dict(self.names.settings(request.model))
        own = request.search.model_dump(exclude_none=True) if request.search else {}
        vote = own.pop("vote", None)
        chosen |= own
        if "stop" in own:
            chosen.setdefault("stop_confidence", None)
        if chosen.get("search_type", self._flags.search_type) != self._flags.search_type:
            chosen["strategy_settings"] = StrategySettings()  # those of the server's own search
        seed = secrets.randbits(SEED_BITS) if request.seed is None else request.seed
        flags: SearchFlags = self._flags
        flags = replace(flags, **chosen, seed=seed, sampling=self._sampling(request))
        if request.most_tokens is not None or "block_size" in own:
            flags = fit_lengths(flags, request.most_tokens)
        try:
            SearchFlags.check(flags)
        except InputError as error:
            names = {name: f"search.{name}" if name in own else "model" for name in chosen}
            raise of_flags(error, names) from error
        if vote in ("WMV", "BoN") and not flags.scorer_flags.has_values:
            raise bad_request(f"{vote} weighs by values, and this server has none", "search.vote")
        return flags

    def _sampling(self, request: SearchRequest) -> Sampling:
        sampling = self._flags.sampling
        temperature, top_p = request.temperature, request.top_p
        if temperature is not None and temperature < LEAST_TEMPERATURE:
            temperature = 0.0
        return Sampling(
            sampling.temperature if temperature is None else temperature,
            sampling.top_p if top_p is None else top_p,
        )

    def _read_conversation(self, request: ChatRequest) -> list[tuple[str, list[int]]]:
        messages = [Message(message.role, message.text) for message in request.messages]
        try:
            ids = self._template.prompt_ids(messages)
        except ValueError as error:
            # Without its name, which may be a path.
            message = one_line(error).removeprefix(f"{self._tokenizer.name_or_path}: ")
            raise bad_request(message, "messages") from error
        return [(messages[-1].content, ids)]

    def _read_prompts(self, request: CompletionRequest) -> list[tuple[str, list[int]]]:
        prompts = []
        for prompt in request.prompts:
            if isinstance(prompt, str):
                ids = self._tokenizer.encode(prompt, add_special_tokens=False)
                if not ids:
                    raise bad_request("The prompt has no tokens.", "prompt")
                prompts.append((prompt, ids))
                continue
            if max(prompt) >= self._num_ids:
                raise bad_request(
                    f"The prompt has a token id of {max(prompt)}; the largest is "
                    f"{self._num_ids - 1}.",
                    "prompt",
                )
            prompts.append((str(self._tokenizer.decode(prompt)), prompt))
        return prompts

    def _check_length(self, num_tokens: int, max_length: int) -> None:
        most = self._context - max_length
        if self._flags.max_prompt_tokens is not None:
            most = min(most, self._flags.max_prompt_tokens)
        if num_tokens > most:
            raise bad_request(
                f"The prompt has {num_tokens} tokens; at most {most} fit beside a response of "
                f"{max_length}.",
                code="context_length_exceeded",
            )


def choice_seed(seed: int, choice: int) -> int:
    """Returns the seed of a choice of a reply: the request's own, and others derived from it."""
    if choice == 0:
        return seed
    return derive_seed(seed, "choice", choice) >> (63 - SEED_BITS)


def fit_lengths(flags: SearchFlags, most_tokens: int | None) -> SearchFlags:
    """Returns flags with responses of so many tokens at most, in whole blocks."""
    length = min(flags.max_length, most_tokens or flags.max_length)
    block = min(flags.block_size, length)
    return replace(flags, max_length=length - length % block, block_size=block)
