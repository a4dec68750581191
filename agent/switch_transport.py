"""A transport whose identity can change while it is used: the agent's certificate is renewed once in a while."""

from __future__ import annotations

from kube.kubeconfig import Connection
from kube.transport import HTTPTransport, Request, Response


class SwitchTransport:
    """HTTPTransport that can be given another certificate.

    Requests under way (watches last minutes) end on the old connections, which are closed at the next change.
    """

    def __init__(self, connection: Connection) -> None:
        self._current = HTTPTransport(connection)
        self._old: HTTPTransport | None = None

    async def switch(self, connection: Connection) -> None:
        """Use another identity from now on."""
        if self._old is not None:
            await self._old.close()
        self._old, self._current = self._current, HTTPTransport(connection)

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        return await self._current.send(request, stream=stream, timeout=timeout)

    async def close(self) -> None:
        for transport in (self._old, self._current):
            if transport is not None:
                await transport.close()
