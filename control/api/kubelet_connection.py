"""From the API server to a node's kubelet: requests that are answered with a stream, and WebSockets passed through.

The connection is TLS with the API server's own client certificate; the kubelet's must be the cluster CA's and hold the
address that is dialled. What the user showed the API server (tokens, cookies) never goes to a node.

A connection lives as long as its stream, so each has a session of its own; nothing is pooled or shared.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
import orjson
from msgspec import Struct
from yarl import URL

from control.api.attributes import Object
from control.api.subresource import SWITCHED, SubresourceContext, Upgrade, WebSocket
from kube import kinds, status
from kube.status import ApiError
from kube.transport import Query, Response

NODES = kinds.known("", "v1", "nodes")

DEFAULT_PORT = 10250
# Kubernetes: kubelet-preferred-address-types.
ADDRESS_TYPES = ("InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP")
CONNECT_SECONDS = 10.0
# Until the answer begins; a kubelet that is alive says something at once.
ANSWER_SECONDS = 30.0
CLOSE_SECONDS = 5.0
MESSAGE_BYTES = 32 << 20
# After so many seconds of silence the kernel asks whether the other side still lives.
KEEPALIVE_SECONDS = 30
KEEPALIVE_PROBES = 3

log = logging.getLogger(__name__)


class KubeletConnection(Struct, frozen=True):
    """Where a node's kubelet is and how to reach it."""

    node: str
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]

    async def get(self, path: str, query: Query = ()) -> Response:
        """GET with a streamed answer; ApiError for anything but success."""
        return await self.send("GET", path, query, convert_errors=True)

    async def send(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        convert_errors: bool = False,
    ) -> Response:
        """One request with a streamed answer of whatever status; with `convert_errors` ApiError from 400 on.

        Also ApiError if the kubelet cannot be reached, or does not let the API server in.
        """
        session = self._session(raise_errors=convert_errors)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await session.request(
                    method, self._url(path, query), headers=headers, data=body or None, allow_redirects=False
                )
            if response.status in (401, 403):
                await _raise_for_status(response, self.node)
        except BaseException as error:
            await session.close()
            if isinstance(error, aiohttp.ClientError | TimeoutError | OSError):
                raise self._unreachable(error) from error
            raise
        return Response(response.status, response.headers, stream=_Pieces(session, response))

    async def tunnel(self, path: str, query: Query, upgrade: Upgrade | None) -> Response:
        """Connect a client's WebSocket with one of the kubelet's, until either side closes.

        ApiError before the client's is accepted: no WebSocket asked for, what the kubelet refuses, no kubelet.
        """
        if upgrade is None:
            raise status.bad_request("Upgrade request required")
        async with self._session(raise_errors=True) as session:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    backend = await session.ws_connect(
                        self._url(path, query),
                        protocols=upgrade.protocols,
                        max_msg_size=MESSAGE_BYTES,
                        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                    )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._unreachable(error) from error
            async with backend:
                front = await upgrade.accept(backend.protocol or "")
                try:
                    await _pass_through(front, backend)
                finally:
                    code = backend.close_code or 1000
                    # 1005 and 1006 say that there was no code; they may not be sent.
                    await front.close(code if code not in (1005, 1006) else 1000)
        return SWITCHED

    def _session(self, *, raise_errors: bool) -> aiohttp.ClientSession:
        async def check(response: aiohttp.ClientResponse) -> None:
            if response.status >= 400:
                await _raise_for_status(response, self.node)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls(), force_close=True, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            raise_for_status=check if raise_errors else False,
            auto_decompress=False,
        )

    def _url(self, path: str, query: Query) -> URL:
        return URL.build(scheme="https", host=self.host, port=self.port, path=path, query=list(query))

    def _unreachable(self, error: BaseException) -> ApiError:
        reason = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
        log.info("the kubelet of node %s cannot be reached: %s", self.node, reason)
        return status.internal_error(f"error dialing backend: node {self.node}: {reason}")


def connect(context: SubresourceContext, node_name: str) -> KubeletConnection:
    """The connection to a node's kubelet; ApiError 404 without such a node, 503 if it has no address."""
    node = context.reader.get(NODES, "", node_name)
    if node is None:
        raise status.not_found("nodes", node_name)
    if context.assets is None:
        raise status.service_unavailable("this API server has no credentials for kubelets")
    host, port = endpoint(node)
    return KubeletConnection(node_name, host, port, context.assets.kubelet_ssl)


def endpoint(node: Object) -> tuple[str, int]:
    """Address and port of a node's kubelet; ApiError 503 if the node says none."""
    state = node.get("status") or {}
    known = {a.get("type"): a.get("address") for a in reversed(state.get("addresses") or ())}
    host = next((known[type_] for type_ in ADDRESS_TYPES if known.get(type_)), "")
    if not host:
        name = node["metadata"]["name"]
        raise status.service_unavailable(f"node {name} has no address: its agent has not reported yet")
    port = ((state.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or DEFAULT_PORT
    return host, port


async def _pass_through(front: WebSocket, backend: aiohttp.ClientWebSocketResponse) -> None:
    """Carry messages both ways until one side closes."""

    async def to_backend() -> None:
        while (message := await front.receive()) is not None:
            await backend.send_bytes(message)

    async def to_front() -> None:
        async for message in backend:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                data: Any = message.data
                await front.send(data if isinstance(data, bytes) else data.encode())

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(to_backend()), group.create_task(to_front())}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    except* (ConnectionError, aiohttp.ClientError) as errors:
        log.debug("one side of a stream is gone: %s", errors.exceptions)


async def _raise_for_status(response: aiohttp.ClientResponse, node: str) -> None:
    """What a kubelet refuses, as the API's own error."""
    body = await response.read()
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    error = ApiError.from_status(found, code=response.status)
    if response.status in (401, 403):
        # It is us whom the kubelet does not know; the user has nothing to do with it.
        raise status.internal_error(f"the kubelet of node {node} refuses the API server: {error.message}")
    if found is None and body:
        error = ApiError(error.code, error.reason, body.decode(errors="replace").strip())
    raise error


class _Pieces:
    """The body of an answer as it comes; closing it, begun or not, ends the connection."""

    def __init__(self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse) -> None:
        self._session = session
        self._response = response
        self._content = response.content.iter_any()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._content)
        except StopAsyncIteration:
            await self.aclose()
            raise
        except aiohttp.ClientError as error:
            await self.aclose()
            raise ConnectionError(str(error)) from error

    async def aclose(self) -> None:
        self._response.close()
        await self._session.close()


def _socket(address: Any) -> socket.socket:
    """A socket whose kernel finds out by itself when the node has gone without a word."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS // KEEPALIVE_PROBES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return made
