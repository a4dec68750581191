"""The seam between a client and an API server: one request in, one response out.

`HTTPTransport` speaks HTTPS to a server anywhere; inside the master, control's LocalTransport hands the same Request
to the same pipeline without a socket. Everything above (client, informers) cannot tell them apart.
"""

from __future__ import annotations

import io
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import orjson
from msgspec import Struct, field
from yarl import URL

from kube.kubeconfig import Connection
from kube.quick_aiohttp import aiohttp
from kube.status import ApiError

Query = Sequence[tuple[str, str]]

CONNECT_TIMEOUT = 10.0
REQUEST_TIMEOUT = 60.0
# A machine that loses its power or its cable ends no connection, and who watches through one sends nothing that could
# fail. So the kernel asks the other side after so many silent seconds, this often, at this interval (tcp(7)).
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 10, 5, 3


class Request(Struct, frozen=True):
    """One API request. `path` is decoded and without query; `headers` have lower-case names."""

    method: str
    path: str
    query: Query = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Response(Struct):
    """One API response: either `body`, or `stream` for a watch or a followed log (then `body` is empty).

    Whoever gets a response with a stream must exhaust it or `await close()`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None

    async def close(self) -> None:
        """End an unfinished stream and give its connection back."""
        closer = getattr(self.stream, "aclose", None)
        if closer is not None:
            await closer()


class Transport(Protocol):
    """Carries requests to an API server."""

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        """Send one request.

        With `stream` the response's body arrives through `Response.stream`, without a time limit of its own.
        Raises ConnectionError (or TimeoutError) when no answer came; an answer of any status is a Response.
        """
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...


def ssl_context(connection: Connection) -> ssl.SSLContext:
    """TLS as a kubeconfig's cluster and user entries want it: the cluster's CA only, and the client certificate."""
    if connection.insecure:
        # not `create_default_context`, which without a CA reads all that the system has
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cadata=connection.ca_data.decode() if connection.ca_data else None)
    if connection.client_cert and connection.client_key:
        # The ssl module reads certificates from files only; the file lives as long as this block, readable by us alone.
        with tempfile.TemporaryDirectory(prefix="ktool-") as folder:
            pem = Path(folder) / "client.pem"
            pem.touch(mode=0o600)
            pem.write_bytes(connection.client_cert + b"\n" + connection.client_key)
            context.load_cert_chain(pem)
    return context


class HTTPTransport:
    """HTTPS (or plain HTTP) to an API server, with connections kept alive."""

    def __init__(self, connection: Connection, *, connections: int = 0) -> None:
        self._url = URL(connection.server.rstrip("/"))
        self._headers = {"Authorization": f"Bearer {connection.token}"} if connection.token else {}
        self._ssl: ssl.SSLContext | bool = ssl_context(connection) if self._url.scheme == "https" else False
        self._server_name = connection.tls_server_name or None
        self._limit = connections
        self._session: aiohttp.ClientSession | None = None
        self._reading: set[aiohttp.ClientResponse] = set()  # whose body somebody reads

    def session(self) -> aiohttp.ClientSession:
        """The session, made on first use inside the running loop; also used for WebSockets (exec, attach)."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._ssl, limit=self._limit, keepalive_timeout=30, socket_factory=_asking_socket
                ),
                headers=self._headers,
                auto_decompress=True,
                read_bufsize=1 << 20,
            )
        return self._session

    def url(self, path: str, query: Query = ()) -> URL:
        """Absolute URL of a path under this server (a server URL may itself have a path)."""
        return self._url.joinpath(path.lstrip("/")).with_query(list(query))

    async def send(self, request: Request, *, stream: bool = False, timeout: float | None = None) -> Response:
        total = None if stream else (timeout or REQUEST_TIMEOUT)
        try:
            response = await self.session().request(
                request.method,
                self.url(request.path, request.query),
                # aiohttp warns of bytes this large; a file is sent piece by piece
                data=io.BytesIO(request.body) if len(request.body) > 1 << 20 else request.body or None,
                headers=request.headers,
                allow_redirects=False,
                server_hostname=self._server_name,
                timeout=aiohttp.ClientTimeout(total=total, sock_connect=CONNECT_TIMEOUT),
            )
            if stream and response.status < 300:
                return Response(response.status, response.headers, stream=self._chunks(response))
            self._reading.add(response)
            try:
                async with response:
                    return Response(response.status, response.headers, await response.read())
            finally:
                self._reading.discard(response)
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{self._url}: {error}") from error

    async def close(self) -> None:
        """Give up all connections: who waits for an answer, or for more of one, gets a ConnectionError.

        Whoever sends something after that, gets new ones.
        """
        session, self._session = self._session, None
        for response in self._reading:
            # aiohttp would tell those who read on, but let those who wait already wait for ever
            response.content.set_exception(aiohttp.ClientConnectionError("the connection was given up"))
        if session is not None:
            await session.close()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        self._reading.add(response)
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from error
        except RuntimeError as error:
            # aiohttp's word for a connection that was given up (by this transport) before the first read
            if not str(error).startswith("Connection closed"):
                raise
            raise ConnectionError(str(error)) from error
        finally:
            self._reading.discard(response)
            # A watch is ended in the middle of its body: the connection cannot be used again, and a polite end of TLS
            # would only keep it open until the server has answered.
            connection = response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            response.close()


def _asking_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose connection breaks when the other side has vanished."""
    family, kind, protocol, *_ = address
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    # the same for what was sent and is not acknowledged, which would be tried for a quarter of an hour
    silent = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * silent)
    return found


def raise_for_status(response: Response) -> Response:
    """The response itself when it is a success, else the ApiError that its Status body describes."""
    if response.status < 400:
        return response
    try:
        status = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        status = None
    raise ApiError.from_status(status, code=response.status)
