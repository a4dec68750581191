"""HTTPS on the node's address: every request is authenticated and authorized first, then answered by `endpoints`.

Only /healthz is answered to everybody. All errors are Status objects, which the API server hands on to the user.
"""

from __future__ import annotations

import errno
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web

from agent.kubelet.server.authentication import Authentication
from agent.kubelet.server.authorization import Authorization, attributes
from agent.kubelet.server.endpoints import Endpoints, Pods
from agent.kubelet.server.metrics import ServerCounts
from agent.kubelet.server.serving_certificate import ServingCertificate
from agent.kubelet.server.usage import UsageReader
from agent.runtime.runtime import ContainerRuntimeError, NotFound, Runtime, RuntimeUnavailable
from kube import status
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.status import ApiError

PORT = 10250
PUBLIC = frozenset({"/healthz"})
SHUTDOWN_SECONDS = 1.0
KEEPALIVE_SECONDS = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class KubeletServer:
    """The kubelet's server, from `start` to `close` (or as a context)."""

    def __init__(
        self,
        pods: Pods,
        runtime: Runtime,
        usage: UsageReader,
        *,
        node_name: str,
        address: str,
        certificate: ServingCertificate,
        authentication: Authentication,
        authorization: Authorization,
        port: int = PORT,
        clock: Clock | None = None,
    ) -> None:
        """`address` is the node's, `port` 0 for any free one (see `port`)."""
        self._address = address
        self._port = port
        self._certificate = certificate
        self._authentication = authentication
        self._authorization = authorization
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._inflight = 0
        endpoints = Endpoints(
            pods, runtime, usage, node_name=node_name, clock=clock or SystemClock(), counts=self.counts
        )
        app = web.Application(middlewares=[self._guard])
        app.add_routes(endpoints.routes())
        # A follower that goes away ends its handler at once, and with it the runtime's stream.
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._runner.addresses[0][1]
        return port

    async def start(self) -> None:
        """Listen. KtoolError if the port is taken or the address is not this machine's."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self._port, ssl_context=self._certificate.context)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise _listen_error(error, self._address, self._port) from error

    async def close(self) -> None:
        """Stop listening and end what is under way."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def counts(self) -> ServerCounts:
        """What has been answered so far."""
        return ServerCounts(self._requests, self._inflight)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who is asking, may they, and every error as a Status."""
        self._inflight += 1
        try:
            if request.path not in PUBLIC:
                certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
                header = request.headers.get("Authorization", "")
                caller = await self._authentication.authenticate(certificate, header)
                await self._authorization.authorize(caller, attributes(request.method, request.path))
            response = await handler(request)
        except ApiError as error:
            response = _answer(error)
        except web.HTTPException as error:
            response = _answer(_of_http(error))
        except ContainerRuntimeError as error:
            response = _answer(_of_runtime(error))
        finally:
            self._inflight -= 1
        first = request.path.strip("/").split("/")[0] if request.match_info.http_exception is None else "other"
        self._requests[request.method, first, response.status] += 1
        return response


def _answer(error: ApiError) -> web.Response:
    return web.Response(body=orjson.dumps(error.to_status()), status=error.code, content_type="application/json")


def _of_http(error: web.HTTPException) -> ApiError:
    if error.status == 404:
        return status.no_such_path()
    return ApiError.from_status(None, code=error.status)


def _of_runtime(error: ContainerRuntimeError) -> ApiError:
    if isinstance(error, NotFound):
        return ApiError(404, status.Reason.NOT_FOUND, str(error))
    if isinstance(error, RuntimeUnavailable):
        return status.service_unavailable(str(error))
    return status.internal_error(str(error))


def _listen_error(error: OSError, address: str, port: int) -> KtoolError:
    if error.errno == errno.EADDRINUSE:
        return KtoolError(
            f"port {port} on {address} is in use",
            wanted="a free port for the kubelet's server",
            mend=f"`ss -ltnp sport = :{port}` shows who holds it; stop that process, or choose another kubelet port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return KtoolError(
            f"{address} is no address of this machine",
            wanted="an address of a network interface",
            mend="`ip -brief address` lists the addresses",
        )
    return KtoolError(f"cannot listen on {address} port {port}", found=str(error))
