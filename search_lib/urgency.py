"""How urgent a request is: what batches and queues of waiting requests go by."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(eq=False)
class Urgency:
    """Says which of several waiting requests goes first.

    It can change while a request waits, so a queue reads it when it chooses, not when it is asked.

    Attributes:
        order: Place of the asking search among those of its run: earlier ones go first, so that
            they end early.
        guessed: Whether the request may turn out to be of no use. Then all others go first.
    """

    order: int = 0
    guessed: bool = False

    @property
    def rank(self) -> tuple[bool, int]:
        """The lower, the sooner."""
        return self.guessed, self.order


urgency: ContextVar[Urgency | None] = ContextVar("urgency", default=None)
"""Urgency of the requests of the running task; None stands for `Urgency()`."""


def current_urgency() -> Urgency:
    """Returns the urgency of the requests of the running task."""
    return urgency.get() or Urgency()
