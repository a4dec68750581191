"""What the kubelet's server answers, path by path. Who may ask is decided before (see `server`)."""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Protocol

import orjson
import psutil
from aiohttp import web

from agent.kubelet.server import container_logs, metrics, port_forward, remote_command, sockets
from agent.kubelet.server.summary import summary
from agent.kubelet.server.usage import UsageReader
from agent.runtime.runtime import (
    LABEL_POD_UID,
    ContainerRuntimeError,
    ContainerState,
    ContainerStatus,
    Runtime,
    SandboxState,
)
from kube import objects, status
from kube.clock import Clock
from kube.models import core_v1

_TRUE = frozenset({"1", "t", "true"})

log = logging.getLogger(__name__)


class Pods(Protocol):
    """The node's pods (`agent.kubelet.kubelet.Kubelet`)."""

    def pods(self) -> list[core_v1.Pod]:
        """All of them, with their statuses."""
        ...

    def pod(self, namespace: str, name: str) -> core_v1.Pod | None:
        """One of them."""
        ...

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerStatus | None:
        """The newest attempt of a container, or the one before it."""
        ...


class Endpoints:
    """The handlers. `counts` tells what the server counts of itself."""

    def __init__(
        self,
        pods: Pods,
        runtime: Runtime,
        usage: UsageReader,
        *,
        node_name: str,
        clock: Clock,
        counts: Callable[[], metrics.ServerCounts],
    ) -> None:
        self._pods = pods
        self._runtime = runtime
        self._usage = usage
        self._node_name = node_name
        self._clock = clock
        self._counts = counts
        self._started = clock.time()

    def routes(self) -> Iterable[web.RouteDef]:
        """Paths as the real kubelet has them."""
        pod = "/{namespace}/{pod}"
        yield web.get("/healthz", self.healthz)
        yield web.get("/healthz/ping", self.healthz)
        yield web.get("/pods", self.list_pods)
        yield web.get("/runningpods", self.running_pods)
        yield web.get("/runningpods/", self.running_pods)
        yield web.get("/stats/summary", self.stats_summary)
        yield web.get("/metrics", self.metrics)
        yield web.get("/metrics/resource", self.metrics_resource)
        yield web.get("/containerLogs" + pod + "/{container}", self.container_logs)
        for method in (web.get, web.post):
            # with the pod's UID in between for callers that must not meet its namesake
            for middle in ("", "/{uid}"):
                yield method("/exec" + pod + middle + "/{container}", self.exec)
                yield method("/attach" + pod + middle + "/{container}", self.attach)
            yield method("/portForward" + pod, self.port_forward)
            yield method("/portForward" + pod + "/{uid}", self.port_forward)

    # --- state

    async def healthz(self, request: web.Request) -> web.Response:
        """Alive, if it can say so."""
        return web.Response(text="ok")

    async def list_pods(self, request: web.Request) -> web.Response:
        """The node's pods as the kubelet knows them."""
        return _json(objects.encode(core_v1.PodList(items=self._pods.pods())))

    async def running_pods(self, request: web.Request) -> web.Response:
        """The pods of which something runs, as far as the runtime knows them."""
        running = {c.labels.get(LABEL_POD_UID) for c in await self._runtime.list_containers() if _runs(c.state)}
        found = [pod for pod in self._pods.pods() if objects.uid(pod) in running]
        return _json(objects.encode(core_v1.PodList(items=found)))

    async def stats_summary(self, request: web.Request) -> web.Response:
        """What node and pods use, as JSON."""
        reading = await self._usage.read()
        found = summary(self._node_name, reading, self._pods.pods(), self._pods.container)
        return _json(orjson.dumps(found))

    async def metrics(self, request: web.Request) -> web.Response:
        """What the kubelet says of itself."""
        sandboxes = await self._runtime.list_sandboxes()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        text = metrics.kubelet_metrics(
            self._node_name,
            pods=len({sandbox.uid for sandbox in sandboxes if sandbox.state is SandboxState.READY}),
            containers=await self._runtime.list_containers(),
            counts=self._counts(),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            resident_bytes=psutil.Process().memory_info().rss,
            started=self._started,
        )
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def metrics_resource(self, request: web.Request) -> web.Response:
        """What node, pods and containers use, in Prometheus' format."""
        reading = await self._usage.read()
        running = {}
        for pod in self._pods.pods():
            for spec in [*pod.spec.initContainers, *pod.spec.containers] if pod.spec is not None else []:
                found = self._pods.container(objects.namespace(pod), objects.name(pod), spec.name or "")
                if found is not None:
                    running[found.id] = found
        text = metrics.resource_metrics(reading, running)
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    # --- logs

    async def container_logs(self, request: web.Request) -> web.StreamResponse:
        """A container's log; the end of a previous one with `previous`."""
        options = container_logs.parse(request.query, now=self._clock.time())
        pod, name = self._pod(request), request.match_info["container"]
        known = self._pods.container(objects.namespace(pod), objects.name(pod), name, previous=options.previous)
        container = container_logs.find(pod, name, known, previous=options.previous)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        async with aclosing(container_logs.read(self._runtime, container.id, options)) as pieces:
            # Who follows a silent container wants to know at once that it works; the others get errors as such.
            first = None if options.follow else await anext(pieces, None)
            await response.prepare(request)
            await self._send(request, response, first, pieces)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, first: bytes | None, pieces: AsyncIterator[bytes]
    ) -> None:
        try:
            if first:
                await response.write(first)
            async for piece in pieces:
                await response.write(piece)
            await response.write_eof()
        except (ContainerRuntimeError, ConnectionError) as error:
            log.info("a log broke off: %s", error)
            if request.transport is not None:
                request.transport.abort()  # an orderly end would look like the log's own

    # --- streams

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """A command in a running container."""
        options = remote_command.StreamOptions.parse(lambda name: _flag(request, name))
        command = request.query.getall("command", [])
        if not command or not command[0]:
            raise status.bad_request("you must specify at least 1 command for the container")
        protocol = sockets.agree(request, remote_command.PROTOCOLS)
        container = self._running(request)
        async with sockets.accepted(request, protocol) as (socket, response):
            await remote_command.serve(
                socket,
                protocol,
                options,
                lambda: self._runtime.exec(container.id, command, stdin=options.stdin, tty=options.tty),
                exit_code=True,
            )
        return response

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """The streams of the container's own process."""
        options = remote_command.StreamOptions.parse(lambda name: _flag(request, name))
        protocol = sockets.agree(request, remote_command.PROTOCOLS)
        container = self._running(request)
        async with sockets.accepted(request, protocol) as (socket, response):
            await remote_command.serve(
                socket,
                protocol,
                options,
                lambda: self._runtime.attach(container.id, stdin=options.stdin),
                exit_code=False,
            )
        return response

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        """Connections to the pod's ports."""
        protocol = sockets.agree(request, port_forward.PROTOCOLS)
        pod = self._pod(request)
        sandboxes = await self._runtime.list_sandboxes({LABEL_POD_UID: objects.uid(pod)})
        sandbox = next((s for s in sandboxes if s.state is SandboxState.READY), None)
        if sandbox is None:
            raise status.bad_request(f"unable to forward ports: pod {objects.name(pod)} has no running sandbox")

        async def connect(port: int) -> port_forward.Connection:
            return await self._runtime.port_forward(sandbox.id, port)

        if protocol == port_forward.SPDY:
            async with sockets.accepted(request, protocol) as (socket, response):
                await port_forward.SpdySession(socket, connect).run()
            return response
        ports = _ports(request)
        async with sockets.accepted(request, protocol) as (socket, response):
            await port_forward.serve_channels(socket, ports, connect)
        return response

    # --- finding what is meant

    def _pod(self, request: web.Request) -> core_v1.Pod:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        pod = self._pods.pod(namespace, name)
        uid = request.match_info.get("uid", "")
        if pod is None or (uid and uid != objects.uid(pod)):
            raise status.not_found("pods", name)
        return pod

    def _running(self, request: web.Request) -> ContainerStatus:
        pod, name = self._pod(request), request.match_info["container"]
        container = self._pods.container(objects.namespace(pod), objects.name(pod), name)
        if container is None or not _runs(container.state):
            raise status.bad_request(f'container not found ("{name}"): it does not run in pod "{objects.name(pod)}"')
        return container


def _runs(state: ContainerState) -> bool:
    return state is ContainerState.RUNNING


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in _TRUE


def _ports(request: web.Request) -> list[int]:
    """The ports of a session with channels; ApiError 400."""
    texts = [text for value in request.query.getall("port", []) for text in value.split(",") if text]
    ports: list[int] = []
    for text in texts:
        with contextlib.suppress(ValueError):
            ports.append(int(text))
    if not texts or len(ports) != len(texts) or not all(0 < port < 65536 for port in ports) or len(ports) > 64:
        raise status.bad_request('query parameter "port" is required: 1 to 64 numbers from 1 to 65535')
    return ports


def _json(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/json")
