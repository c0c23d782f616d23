"""Runs the searches of a request, and replies with their outcomes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from run_lib.text import one_line
from search_lib.asking.asker import Asker
from search_lib.asking.live import LiveQuestion
from search_lib.asking.outcome import Outcome
from search_lib.asking.window import Share
from search_lib.jobs import Policy
from search_lib.serve.admission import Admission, Deadlines
from search_lib.serve.errors import of_search
from search_lib.serve.exchange import Exchange
from search_lib.serve.metrics import Metrics
from search_lib.serve.plans import Plan
from search_lib.serve.replies import (
    ChatReply,
    CompletionReply,
    Replies,
    as_event,
    num_generated,
)
from search_lib.thoughts import Thoughts

LOG = logging.getLogger("search_lib.serve")

PROGRESS_SECONDS = 0.25
"""Between two progress events of a choice."""

SILENCE_SECONDS = 10.0
"""A stream says something at least so often, or proxies and clients would take it for dead."""

Result = TypeVar("Result")

SendBytes = Callable[[bytes], Awaitable[None]]


class Service:
    """Answers plans with the models of a run.

    The answer of a seed is the same whenever it is asked, as long as the models compute the same
    numbers: floating-point rounding depends on what else is in their batches. So under load a near
    tie between two tokens, or two values, may go the other way; alone, it does not.

    Args:
        asker: Searches.
        policy: The policy.
        thoughts: How it thinks before it answers.
        admission: Who is answered, and who waits.
        deadlines: How long.
        metrics: Counts tokens.
    """

    def __init__(
        self,
        asker: Asker,
        policy: Policy,
        thoughts: Thoughts,
        admission: Admission,
        deadlines: Deadlines,
        metrics: Metrics,
    ):
        self._asker = asker
        self._tokenizer = policy.tokenizer
        self._thoughts = thoughts
        self._admission = admission
        self._deadlines = deadlines
        self._metrics = metrics

    async def answer(self, plan: Plan, exchange: Exchange) -> ChatReply | CompletionReply:
        """Returns the whole reply to a request.

        Raises:
            ApiError: If there is none.
        """
        async with self._admitted(exchange) as ready:
            await ready
            share = self._share(plan)
            work = [self._ask(plan, index, share) for index in _choices(plan)]
            outcomes = await all_of(work)
        self._count(plan, outcomes, exchange)
        return self._replies(plan, exchange).whole(outcomes)

    async def stream(self, plan: Plan, exchange: Exchange, send: SendBytes) -> None:
        """Sends the events of a reply.

        Raises:
            ApiError: If it can't go on. If there is no place, nothing has been sent.
        """
        replies = self._replies(plan, exchange)
        async with self._admitted(exchange) as ready:
            for chunk in replies.start():
                await send(as_event(chunk))
            await self._send_while(ready, send)
            outcomes = await self._send_searches(plan, replies, send)
            if plan.includes_usage:
                await send(as_event(replies.usage(outcomes)))
            await send(b"data: [DONE]\n\n")
        self._count(plan, outcomes, exchange)

    @asynccontextmanager
    async def _admitted(self, exchange: Exchange) -> AsyncIterator["asyncio.Future[None]"]:
        """Holds a place, and gives what is done when it is the request's turn."""
        async with self._deadlines.limit():
            place = self._admission.take()
            try:
                yield place.ready
            except Exception as error:
                refusal = of_search(error, exchange.id)
                if refusal is not error:
                    kind = type(error).__name__
                    LOG.error("%s failed: %s: %s", exchange.id, kind, one_line(error))
                raise refusal from error
            finally:
                self._admission.leave(place)

    async def _send_while(self, ready: "asyncio.Future[None]", send: SendBytes) -> None:
        """Waits for a turn, and says so from time to time."""
        while not ready.done():
            await asyncio.wait([ready], timeout=SILENCE_SECONDS)
            if not ready.done():
                await send(b": waiting\n\n")

    async def _send_searches(self, plan: Plan, replies: Replies, send: SendBytes) -> list[Outcome]:
        """Runs the searches of a request; sends how they stand, and the response of each choice."""
        changed: dict[int, LiveQuestion] = {}
        outcomes: dict[int, Outcome] = {}
        running: dict[asyncio.Task[Outcome], int] = {}
        share = self._share(plan)
        for index in _choices(plan):
            work = self._ask(plan, index, share, partial(changed.__setitem__, index))
            running[asyncio.create_task(work)] = index
        last_sent = last_progress = time.monotonic()
        try:
            while running:
                await asyncio.wait(running, timeout=PROGRESS_SECONDS, return_when="FIRST_COMPLETED")
                events = []
                for task in [task for task in running if task.done()]:
                    index = running.pop(task)
                    outcome = outcomes[index] = task.result()
                    changed.pop(index, None)
                    events += [as_event(chunk) for chunk in replies.end(index, outcome)]
                now = time.monotonic()
                if now - last_progress >= PROGRESS_SECONDS:
                    last_progress = now
                    events += [as_event(replies.progress(*one)) for one in sorted(changed.items())]
                    changed.clear()
                if not events and now - last_sent >= SILENCE_SECONDS:
                    events.append(b": waiting\n\n")
                for event in events:
                    await send(event)
                    last_sent = now
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return [outcomes[index] for index in _choices(plan)]

    def _share(self, plan: Plan) -> Share:
        """Returns what a request has of the window, however many choices it asks for."""
        return self._asker.window.share(plan.asks[0].flags.num_blocks)

    async def _ask(
        self,
        plan: Plan,
        index: int,
        share: Share,
        on_change: Callable[[LiveQuestion], None] | None = None,
    ) -> Outcome:
        ask = plan.asks[index]
        asker = self._asker
        return await asker.ask(ask.question, ask.flags, plan.vote, on_change, share=share)

    def _replies(self, plan: Plan, exchange: Exchange) -> Replies:
        # All choices of a chat have the same one, which may be long: it is decoded only once.
        ids = plan.asks[0].question.prompt_ids if plan.is_chat else []
        prompt = str(self._tokenizer.decode(ids))
        prefix = "chatcmpl" if plan.is_chat else "cmpl"
        return Replies(plan, exchange.id.replace("req", prefix), self._thoughts, prompt)

    def _count(self, plan: Plan, outcomes: list[Outcome], exchange: Exchange) -> None:
        tokens = num_generated(outcomes)
        self._metrics.tokens.inc(tokens)
        exchange.notes |= {"model": plan.model, "choices": len(outcomes), "tokens": tokens}


async def all_of(work: list[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Returns the results of work side by side; if one fails, or this is cancelled, all end."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choices(plan: Plan) -> range:
    return range(len(plan.asks))
