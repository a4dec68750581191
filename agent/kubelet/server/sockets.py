"""WebSockets as sessions see them: whole messages, and the protocol that both sides agreed on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from aiohttp import WSMsgType, web

from kube import status

MAX_MESSAGE_BYTES = 8 << 20


class MessageSocket(Protocol):
    """One end of a WebSocket."""

    async def receive(self) -> bytes | None:
        """The next message (text as UTF-8), or None when the other side has closed or is gone."""
        ...

    async def send(self, data: bytes) -> None:
        """Send one binary message; waits while the other side is slow. Raises ConnectionError when it is gone."""
        ...


class HttpSocket:
    """A MessageSocket over aiohttp."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> bytes | None:
        """MessageSocket.receive."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is WSMsgType.TEXT:
            text: str = message.data
            return text.encode()
        return None

    async def send(self, data: bytes) -> None:
        """MessageSocket.send."""
        await self._socket.send_bytes(data)


def agree(request: web.BaseRequest, supported: tuple[str, ...]) -> str:
    """The subprotocol to speak: the client's favourite among the supported ones.

    ApiError 400 if the client wants no WebSocket, or none of these protocols.
    """
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise status.bad_request("Upgrade request required")
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    offered = [part.strip() for line in lines for part in line.split(",") if part.strip()]
    for protocol in offered:
        if protocol in supported:
            return protocol
    raise status.bad_request(
        f"unable to upgrade: found subprotocols {', '.join(offered) or 'none'}, wanted one of {', '.join(supported)}"
    )


@contextlib.asynccontextmanager
async def accepted(request: web.BaseRequest, protocol: str) -> AsyncIterator[tuple[HttpSocket, web.WebSocketResponse]]:
    """The socket of an accepted WebSocket, and the response to return; closed in order at the end."""
    # No heartbeat from here: the API server in between does that, and a slow reader must not look like a dead one.
    response = web.WebSocketResponse(protocols=(protocol,), max_msg_size=MAX_MESSAGE_BYTES, compress=False)
    try:
        await response.prepare(request)
    except web.HTTPException as error:
        raise status.bad_request(f"the WebSocket handshake failed: {error.text or error.reason}") from error
    try:
        yield HttpSocket(response), response
    finally:
        await response.close()
