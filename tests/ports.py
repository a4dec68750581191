"""Ports for servers that tests start.

Not those that the kernel gives for the asking: it gives them to clients as well. A client could have got the port
before the server comes to it, and one that tries to reach a server that is away could even be connected to itself.
"""

from __future__ import annotations

import itertools
import os
import socket

# below the kernel's (net.ipv4.ip_local_port_range) and those of NodePorts
PORTS = range(20_000, 30_000)

_turn = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port that nobody listens on, and that no other test of this process is given for a long time."""
    for _ in PORTS:
        port = PORTS[next(_turn) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
