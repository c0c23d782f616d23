"""To wait for what another process or thread brings about."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Returns as soon as the condition holds.

    Raises:
        TimeoutError: It did not hold within `seconds`; the message says `what` was missing.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)
