"""Ports of this machine for servers that take a while to start."""

import contextlib
import random
import socket


def free_port(*promised: int) -> int:
    """Returns a port of this machine that nobody has, and that nobody is given by chance.

    A server binds its port many seconds later. The system's own choice of a port, for an outgoing
    connection of any program, is from 32,768 on.

    Args:
        *promised: Ports that are free, and others will have.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        if port in promised:
            continue
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
