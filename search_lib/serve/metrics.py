"""What the server tells Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds of the histogram; a search takes from a tenth of a second to half an hour."""


class Metrics:
    """Counts requests, in a registry of its own, beside the memory and time of this process.

    Attributes:
        tokens: Counts generated tokens.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "vgs_requests",
            "Requests that have ended; 499: the client went away",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "vgs_request_seconds",
            "Seconds from a request to the end of its reply",
            ("endpoint",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.tokens = Counter(
            "vgs_tokens_generated",
            "Tokens that were generated for requests that were answered",
            registry=self._registry,
        )

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Shows a number as it is when Prometheus asks."""
        Gauge(f"vgs_{name}", meaning, registry=self._registry).set_function(read)

    def request_ended(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        """Returns all numbers in Prometheus' format."""
        return generate_latest(self._registry)
