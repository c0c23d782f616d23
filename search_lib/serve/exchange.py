"""A request and its reply: what the log and the metrics tell about it."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Scope, Send

KEY = "exchange"
"""Where the scope of a request has its exchange."""


@dataclass(eq=False)
class Exchange:
    """A request and its reply.

    Attributes:
        send: Sends a message of the reply.
        id: Name of the request, in its reply and the log.
        status: Status of the reply; of a stream that ended in an error, that of the error.
        has_begun: Whether the reply has begun.
        closes: Whether the connection is of no use afterwards.
        notes: What else the log tells.
    """

    send: Send
    id: str = field(default_factory=lambda: f"req-{uuid.uuid4().hex}")
    status: int = 499
    has_begun: bool = False
    closes: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Scope) -> "Exchange":
        """Returns the exchange of a request."""
        exchange: Exchange = scope[KEY]
        return exchange

    async def reply(self, message: Message) -> None:
        """Sends a message, and notes the status."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            more = [(b"x-request-id", self.id.encode())]
            if self.closes:
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await self.send(message)
