"""A transport that changes while it is used: the agent's certificate is renewed, and masters come, go and fail.

One server is used until it fails: it gives no answer, or says 503, as a master does that has lost its store. Then the
next one is used, and every connection to the one that failed is given up: a watch there might stay open for hours and
tell nothing. The request that failed is not repeated here. Its caller knows whether it may be, and comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from kube.kubeconfig import Connection
from kube.transport import HTTPTransport, Request, Response

UNAVAILABLE = 503
# A caller who gives up after so long has had no answer. (A node's lease is renewed within 10 s or not at all: the node
# would count as lost long before a request ends by itself.)
SILENT_SECONDS = 8.0

log = logging.getLogger(__name__)


class SwitchTransport:
    """HTTPTransport to one of several servers. The first is the connection's own; `offer` says which others there are.

    After another certificate was given, requests under way (watches last minutes) end on the old connections, which are
    closed at the next change.
    """

    def __init__(self, connection: Connection, others: Iterable[str] = ()) -> None:
        self._connection = connection
        self._servers: tuple[str, ...] = ()
        self._transports: dict[str, HTTPTransport] = {}
        self._old: list[HTTPTransport] = []
        self._turning: set[asyncio.Task[None]] = set()
        self.server = connection.server
        self.offer(others)

    def offer(self, others: Iterable[str]) -> None:
        """The servers (URLs) to turn to besides the connection's own, in this order. One in use stays so until it
        fails, whether it is among them or not."""
        self._servers = tuple(dict.fromkeys((self._connection.server, *others)))

    async def switch(self, connection: Connection) -> None:
        """Use another identity from now on."""
        for transport in self._old:
            await transport.close()
        self._old, self._transports = [*self._transports.values()], {}
        self._connection = connection

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        server, transport = self.server, self._transport()
        begun = time.monotonic()
        try:
            response = await transport.send(request, stream=stream, timeout=timeout)
        except (ConnectionError, TimeoutError) as error:
            await self._failed(server, transport, str(error) or "no answer")
            raise
        except asyncio.CancelledError:
            if time.monotonic() - begun >= SILENT_SECONDS:
                turning = asyncio.create_task(self._failed(server, transport, "no answer in time"))
                self._turning.add(turning)
                turning.add_done_callback(self._turning.discard)
            raise
        if response.status == UNAVAILABLE:
            await self._failed(server, transport, "503 Service Unavailable")
        return response

    async def close(self) -> None:
        await asyncio.gather(*self._turning, return_exceptions=True)
        for transport in (*self._old, *self._transports.values()):
            await transport.close()

    def _transport(self) -> HTTPTransport:
        found = self._transports.get(self.server)
        if found is None:
            own = self.server == self._connection.server
            # the name that a kubeconfig may want a server to have is that of its own server
            name = self._connection.tls_server_name if own else ""
            found = HTTPTransport(replace(self._connection, server=self.server, tls_server_name=name))
            self._transports[self.server] = found
        return found

    async def _failed(self, server: str, transport: HTTPTransport, why: str) -> None:
        """Use the server after the one that failed, unless somebody has moved on already, or there is no other."""
        if server != self.server or self._servers == (server,):
            return
        after = self._servers.index(server) + 1 if server in self._servers else 0
        self.server = self._servers[after % len(self._servers)]
        log.warning("%s fails (%s): going on with %s", server, why, self.server)
        await transport.close()
