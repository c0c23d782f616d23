"""Puts the parts of the server together."""

from search_lib.asking.asker import Asker
from search_lib.jobs import Policy
from search_lib.serve.admission import Admission, Deadlines
from search_lib.serve.app import ENDPOINTS, MODELS, create_app
from search_lib.serve.args import ServeFlags
from search_lib.serve.exchange import Exchange
from search_lib.serve.gate import Gate, Rules
from search_lib.serve.metrics import Metrics
from search_lib.serve.plans import Planner
from search_lib.serve.service import Service


def build(
    flags: ServeFlags, asker: Asker, planner: Planner, policy: Policy
) -> tuple[Gate, Deadlines]:
    """Returns the ASGI app of a server, and what ends its requests.

    Args:
        flags: The server's flags.
        asker: Searches.
        planner: Reads requests.
        policy: The policy.
    """
    admission = Admission(flags.max_requests, flags.max_queued)
    deadlines = Deadlines(flags.request_timeout)
    metrics = Metrics()
    window = asker.window
    for name, meaning, read in (
        ("requests_in_flight", "Requests that are answered", lambda: admission.num_running),
        ("requests_queued", "Requests that wait for others to end", lambda: admission.num_queued),
        ("searches_in_flight", "Searches in the window", lambda: window.num_running),
        ("searches_waiting", "Searches that wait for the window", lambda: window.num_waiting),
    ):
        metrics.watch(name, meaning, read)
    thoughts = flags.find_format().thoughts
    service = Service(asker, policy, thoughts, admission, deadlines, metrics)
    app = create_app(planner, service, metrics, deadlines, flags.key is not None)

    def count(exchange: Exchange, path: str, seconds: float) -> None:
        endpoint = MODELS if path.startswith(f"{MODELS}/") else path
        known = endpoint if endpoint in ENDPOINTS else "other"
        metrics.request_ended(known, exchange.status, seconds)

    rules = Rules(
        flags.key,
        local_names(flags.host) if flags.is_local and flags.key is None else None,
        flags.max_body_bytes,
        flags.max_open,
    )
    return Gate(app, rules, admission.refusal, count), deadlines


def local_names(host: str) -> frozenset[str]:
    """Returns the names that clients on this machine give an address of it."""
    return frozenset({"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host.lower()}]"})
