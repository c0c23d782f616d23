"""Addresses of servers, as flags give them."""

import re
from urllib.parse import urlsplit


def check_url(url: str) -> str:
    """Returns the URL without its last slash; raises ValueError if it is no URL of a server."""
    try:
        parts = urlsplit(url)
        is_server = (
            parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        ) and not (parts.query or parts.username or re.search(r"[\s\0-\x1f\x7f]", url))
    except ValueError:  # of a port that is none
        is_server = False
    if not is_server:
        raise ValueError(f"{url!r} is not of the form http://host:port")
    return url.rstrip("/")
