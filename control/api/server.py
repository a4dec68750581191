"""HTTPS in front of the pipeline: aiohttp's low-level server, one connection handler, no routes.

TLS 1.2 and newer, HTTP/1.1. A client certificate is optional; one that is shown must be the cluster CA's, which TLS
checks. What a client may cost is bounded: the size of a body, the number of requests under way (429 beyond it, as
Kubernetes' max-in-flight limits), and what may wait for a slow watcher (`control.api.watcher`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import WSMsgType, web
from aiohttp.web_protocol import RequestHandler

from control.api import output
from control.api.attributes import ClientCertificate
from control.api.body import MAX_BODY_BYTES
from control.api.pipeline import LONG_RUNNING, Api
from control.api.port_holder import port_holder
from kube import status
from kube.errors import KtoolError
from kube.transport import Request, Response

MAX_READS = 400
MAX_WRITES = 200
KEEPALIVE_SECONDS = 120.0
SHUTDOWN_SECONDS = 5.0
BODY_SECONDS = 60.0
WEBSOCKET_HEARTBEAT_SECONDS = 30.0
WEBSOCKET_MESSAGE_BYTES = 32 << 20

log = logging.getLogger(__name__)


def server_ssl(*, cert: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS of the API server; `cert` may hold the CA's certificate as well, for clients that pin it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


class Server:
    """Serves an Api over HTTPS (or plain HTTP without `tls`) from `start` to `close`."""

    def __init__(self, api: Api, *, address: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._api = api
        self._address = address
        self._wanted_port = port
        self._tls = tls
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self.closing = False

    @property
    def port(self) -> int:
        """The port that is listened on (the one asked for, unless that was 0)."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen. KtoolError if the port is in use or the address is not this machine's."""
        self._web = web.Server(
            self._handle,
            request_factory=_request,
            handler_cancellation=True,  # a watch ends when its client is gone, not at its next event
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_field_size=32 << 10,
            max_line_size=32 << 10,
        )
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                self._web, self._address, self._wanted_port, ssl=self._tls, backlog=1024
            )
        except OSError as error:
            raise listen_error(error, self._address, self._wanted_port) from error

    async def close(self) -> None:
        """Stop listening, end the watches, give requests under way a few seconds to finish."""
        self.closing = True
        if self._listener is None or self._web is None:
            return
        self._listener.close()
        self._web.pre_shutdown()  # connections that wait for a next request
        self._api.environment.cache.close_watches()
        await self._web.shutdown(SHUTDOWN_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await self._listener.wait_closed()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        inflight, kind = self._api.counters.inflight, ""
        if not _is_long_running(request):
            reads = request.method in ("GET", "HEAD")
            kind, limit = ("readOnly", MAX_READS) if reads else ("mutating", MAX_WRITES)
            if inflight[kind] >= limit:
                self._api.counters.refused += 1
                error = status.too_many_requests("the server has too many requests under way, please try again later")
                return _plain(output.respond_error(error))
            inflight[kind] += 1
        try:
            return await self._answer(request)
        finally:
            if kind:
                inflight[kind] -= 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        length = request.content_length
        try:
            if length is not None and length > MAX_BODY_BYTES:
                raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, length)
            # who sends nothing more must not keep one of the places for requests under way
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read() if request.can_read_body else b""
        except TimeoutError:
            late = _plain(output.respond_error(status.timeout(f"the request's body did not come in {BODY_SECONDS} s")))
            late.force_close()
            return late
        except web.HTTPRequestEntityTooLarge:
            error = status.too_large(f"Request entity too large: limit is {MAX_BODY_BYTES} bytes")
            refused = _plain(output.respond_error(error))
            refused.force_close()  # the rest of the body is not worth reading
            return refused
        upgrade = HttpUpgrade(request) if request.headers.get("Upgrade", "").lower() == "websocket" else None
        response = await self._api.handle(
            to_request(request, body), client_cert=client_certificate(request), upgrade=upgrade
        )
        if upgrade is not None and upgrade.accepted is not None:
            return upgrade.accepted
        if response.stream is not None:
            return await _stream(request, response)
        return _plain(response)


def _request(
    message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    # one more than the limit is read, so that a body just over it is told from one that fits
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES + 1)


def to_request(request: web.BaseRequest, body: bytes) -> Request:
    """An HTTP request as the pipeline takes it."""
    path, _, query = request.raw_path.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return Request(
        request.method,
        unquote(path) if "%" in path else path,
        parse_qsl(query, keep_blank_values=True) if query else (),
        headers,
        body,
    )


def client_certificate(request: web.BaseRequest) -> ClientCertificate | None:
    """The certificate that the client showed in the handshake, if it did."""
    transport = request.transport
    found: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport is not None else None
    if not found:
        return None
    subject = [attribute for part in found.get("subject", ()) for attribute in part]
    names = [value for key, value in subject if key == "commonName"]
    groups = tuple(value for key, value in subject if key == "organizationName")
    return ClientCertificate(names[0] if names else "", groups, str(found.get("notBefore", "")))


def _is_long_running(request: web.BaseRequest) -> bool:
    path, _, query = request.raw_path.partition("?")
    if "watch=" in query and "watch=false" not in query.lower():
        return True
    parts = path.split("/")
    # the older form of a watch: /api/v1/watch/..., /apis/<group>/<version>/watch/...
    return any(part in LONG_RUNNING for part in parts[5:]) or "watch" in parts[3:5]


def _plain(response: Response) -> web.Response:
    return web.Response(body=response.body, status=response.status, headers=response.headers)


async def _stream(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Send a stream as chunks, as they come; it is closed however this ends."""
    assert response.stream is not None
    answer = web.StreamResponse(status=response.status, headers=response.headers)
    answer.enable_chunked_encoding()
    try:
        await answer.prepare(request)
        async for chunk in response.stream:
            await answer.write(chunk)
        await answer.write_eof()
    except ConnectionError as error:
        log.debug("%s %s: the client went away: %s", request.method, request.raw_path, error)
    finally:
        await response.close()
    return answer


class HttpUpgrade:
    """`subresource.Upgrade` over aiohttp."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self.accepted: web.WebSocketResponse | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """Upgrade.protocols."""
        offered = self._request.headers.getall("Sec-WebSocket-Protocol", [])
        return tuple(part.strip() for line in offered for part in line.split(",") if part.strip())

    async def accept(self, protocol: str) -> HttpWebSocket:
        """Upgrade.accept."""
        socket = web.WebSocketResponse(
            protocols=(protocol,) if protocol else (),
            heartbeat=WEBSOCKET_HEARTBEAT_SECONDS,
            max_msg_size=WEBSOCKET_MESSAGE_BYTES,
            compress=False,
        )
        try:
            await socket.prepare(self._request)
        except web.HTTPException as error:
            raise status.bad_request(f"the WebSocket handshake failed: {error.text or error.reason}") from error
        self.accepted = socket
        return HttpWebSocket(socket, protocol)


class HttpWebSocket:
    """`subresource.WebSocket` over aiohttp."""

    def __init__(self, socket: web.WebSocketResponse, protocol: str) -> None:
        self._socket = socket
        self._protocol = protocol

    @property
    def protocol(self) -> str:
        """WebSocket.protocol."""
        return self._protocol

    async def receive(self) -> bytes | None:
        """WebSocket.receive."""
        message = await self._socket.receive()
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is WSMsgType.TEXT:
            text: str = message.data
            return text.encode()
        return None

    async def send(self, data: bytes) -> None:
        """WebSocket.send."""
        await self._socket.send_bytes(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """WebSocket.close."""
        await self._socket.close(code=code, message=reason.encode()[:123])


def listen_error(error: OSError, address: str, port: int) -> KtoolError:
    """Why an address cannot be listened on, for people."""
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return KtoolError(
            f"port {port} on {address} is in use",
            found=f"held by {holder}" if holder else "held by another process",
            wanted="a free port for the API server",
            mend=f"Stop that process, or give the master another port (--port); `ss -ltnp sport = :{port}` shows who",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return KtoolError(
            f"{address} is no address of this machine",
            wanted="an address of a network interface, or 0.0.0.0",
            mend="`ip -brief address` lists the addresses; choose one with --bind-address",
        )
    if error.errno == errno.EACCES:
        return KtoolError(
            f"no permission to listen on port {port}", wanted="root, or a port from 1024", mend="Choose another --port"
        )
    return KtoolError(f"cannot listen on {address} port {port}", found=str(error))
