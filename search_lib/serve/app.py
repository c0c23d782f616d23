"""The paths of the server, as its OpenAPI document describes them."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from search_lib.serve.admission import Deadlines
from search_lib.serve.errors import ApiError, bad_request, of_validation, shutting_down, unexpected
from search_lib.serve.exchange import Exchange
from search_lib.serve.metrics import CONTENT_TYPE, Metrics
from search_lib.serve.plans import Plan, Planner
from search_lib.serve.replies import (
    ChatReply,
    CompletionReply,
    ErrorReply,
    Health,
    ModelList,
    ModelReply,
    as_event,
)
from search_lib.serve.requests import UNSUPPORTED, ChatRequest, CompletionRequest, SearchRequest
from search_lib.serve.service import Service

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"

ENDPOINTS = frozenset({CHAT, COMPLETIONS, MODELS, "/health", "/metrics", "/openapi.json"})
"""Paths by which metrics tell requests apart."""

LAST_WORDS_SECONDS = 5.0
"""Within which a client must take the end of its stream."""

MESSAGES = {404: "There is no such path.", 405: "This path does not take that method."}

ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorReply}}


class JsonRequest(Request):
    """A request whose body is JSON as its standard has it: no NaN, no halves of characters."""

    async def json(self) -> Any:
        """Returns the content of the body; raises ApiError unless it is JSON."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise bad_request(f"The body is not JSON: {error}") from error


class JsonRoute(APIRoute):
    """A route of `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns what answers a request."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            # A page of another site may send other types without asking the browser's leave.
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise ApiError(415, "The Content-Type of the body must be application/json.")
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


class EventStream(Response):
    """A reply of server-sent events.

    Args:
        service: Searches.
        plan: What the request came to.
    """

    def __init__(self, service: Service, plan: Plan):
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
            media_type="text/event-stream",
        )
        del self.headers["content-length"]
        self._service = service
        self._plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; an error once they have begun is the last of them."""
        exchange = Exchange.of(scope)

        async def send_event(event: bytes) -> None:
            if not exchange.has_begun:
                head = {"status": 200, "headers": self.raw_headers}
                await send({"type": "http.response.start", **head})
            await send({"type": "http.response.body", "body": event, "more_body": True})

        last = b""
        try:
            await self._service.stream(self._plan, exchange, send_event)
        except ApiError as error:
            if not exchange.has_begun:
                raise
            exchange.status = error.status_code
            last = as_event(error.body())
        with contextlib.suppress(TimeoutError):  # then the server closes the connection
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await send({"type": "http.response.body", "body": last, "more_body": False})


def create_app(
    planner: Planner,
    service: Service,
    metrics: Metrics,
    deadlines: Deadlines,
    needs_key: bool,
) -> FastAPI:
    """Returns the app, without what `gate` does.

    Args:
        planner: Reads requests.
        service: Answers them.
        metrics: What `/metrics` shows.
        deadlines: Tells whether the server ends.
        needs_key: Whether clients need a key, for the document.
    """
    app = FastAPI(
        title="Value-guided search",
        version="1",
        docs_url=None,  # its pages come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    dependencies = [Depends(HTTPBearer(auto_error=False))] if needs_key else []
    secured = APIRouter(route_class=JsonRoute, dependencies=dependencies)
    started = int(time.time())

    @app.exception_handler(ApiError)
    @app.exception_handler(HTTPException)
    async def tell(request: Request, error: HTTPException) -> Response:
        if not isinstance(error, ApiError):
            message = MESSAGES.get(error.status_code, str(error.detail))
            error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
        return JSONResponse(error.body(), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def tell_fault(request: Request, error: RequestValidationError) -> Response:
        return await tell(request, of_validation(error.errors(), UNSUPPORTED))

    @app.exception_handler(Exception)
    async def tell_nothing(request: Request, error: Exception) -> Response:
        return await tell(request, unexpected(Exchange.of(request.scope).id))

    async def reply(body: SearchRequest, request: Request) -> Response:
        async with deadlines.limit():
            plan = await planner.plan(body)
        if plan.streams:
            return EventStream(service, plan)
        answer = await service.answer(plan, Exchange.of(request.scope))
        return JSONResponse(answer.model_dump(mode="json"))

    streams: dict[str, Any] = {"content": {"text/event-stream": {}}}

    @secured.post(CHAT, response_model=None, responses={200: streams | {"model": ChatReply}})
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answers the last message of a conversation."""
        return await reply(body, request)

    @secured.post(
        COMPLETIONS, response_model=None, responses={200: streams | {"model": CompletionReply}}
    )
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continues prompts as they are."""
        return await reply(body, request)

    def describe(name: str) -> ModelReply:
        return ModelReply(id=name, object="model", created=started, owned_by="search_lib")

    @secured.get(MODELS)
    async def models() -> ModelList:
        """Lists the policy, and the name of its default search."""
        names = planner.names
        data = [describe(name) for name in (names.policy, names.default)]
        return ModelList(object="list", data=data)

    @secured.get(f"{MODELS}/{{name:path}}")
    async def model(name: str) -> ModelReply:
        """Tells whether a name is that of a model."""
        planner.search(SearchRequest.model_construct(model=name))
        return describe(name)

    @app.get("/health")
    async def health() -> Health:
        """Tells that the server answers."""
        if deadlines.is_closing:
            raise shutting_down()
        return Health(status="ok")

    @secured.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def show_metrics() -> Response:
        """Shows numbers to Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    app.include_router(secured)
    return app
