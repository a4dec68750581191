"""Jump hosts that several machines are reached through: one connection for all, asked and logged in once."""

from __future__ import annotations

import threading
from collections import defaultdict

from provision.ssh.authentication import Ask
from provision.ssh.connection import Connection
from provision.ssh.endpoint import Endpoint


class JumpHosts:
    """Open connections to jump hosts. Whoever makes it closes it, after the connections that go through it."""

    def __init__(self) -> None:
        self._open: dict[Endpoint, Connection] = {}
        self._opening: defaultdict[Endpoint, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def connection(self, endpoint: Endpoint, *, ask: Ask | None) -> Connection:
        """The connection to a jump host; opened if there is none or it was lost, by the first that needs it while the
        others wait."""
        with self._lock:
            opening = self._opening[endpoint]
        with opening:
            found = self._open.get(endpoint)
            if found is None or not found.active:
                via = self.connection(endpoint.jump, ask=ask) if endpoint.jump is not None else None
                found = Connection.open(endpoint, ask=ask, via=via)
                self._open[endpoint] = found
            return found

    def close(self) -> None:
        """Close all, those behind others first."""
        with self._lock:
            connections = list(self._open.values())
            self._open.clear()
        for connection in reversed(connections):
            connection.close()
