"""Which addresses of a server only its own machine can reach."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tells whether a host is localhost or in 127.0.0.0/8 or ::1, written out."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
