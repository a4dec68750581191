"""Asking a container something, or telling it: exec, httpGet, tcpSocket (Kubernetes: handlers of probes and hooks)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import aiohttp
from msgspec import Struct

from agent.runtime.runtime import ContainerRuntimeError, ExecTimeout, NotFound, Runtime, RuntimeUnavailable
from kube.models import core_v1

USER_AGENT = "kube-probe/1.32"
MAX_BODY = 10 << 10
MAX_MESSAGE = 512

Handler = core_v1.Probe | core_v1.LifecycleHandler


class Target(Struct, frozen=True):
    """The container that a handler is about. `address` is the pod's IP (the host's, in the host's network)."""

    container_id: str
    spec: core_v1.Container
    address: str


class Outcome(Struct, frozen=True):
    """What came of it. `ok` None: it could not be found out, and says nothing about the container."""

    ok: bool | None
    message: str = ""


class Handlers(Protocol):
    """Runs handlers."""

    async def run(self, handler: Handler, target: Target, *, timeout: float) -> Outcome:
        """Run one handler, for at most `timeout` seconds. Never raises for what the container does."""
        ...

    async def close(self) -> None: ...


class RealHandlers:
    """Handlers over the runtime (exec) and the network (HTTP, TCP)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session: aiohttp.ClientSession | None = None

    async def run(self, handler: Handler, target: Target, *, timeout: float) -> Outcome:
        if handler.exec is not None:
            return await self._exec(handler.exec, target, timeout)
        if handler.httpGet is not None:
            return await self._http(handler.httpGet, target, timeout)
        if handler.tcpSocket is not None:
            return await _tcp(handler.tcpSocket, target, timeout)
        sleep = getattr(handler, "sleep", None)
        if sleep is not None:
            await asyncio.sleep(min(float(sleep.seconds or 0), timeout))
            return Outcome(True)
        if getattr(handler, "grpc", None) is not None:
            return Outcome(False, "grpc probes are not supported by this node's agent: use exec, httpGet or tcpSocket")
        return Outcome(True)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exec(self, action: core_v1.ExecAction, target: Target, timeout: float) -> Outcome:
        try:
            result = await self._runtime.exec_sync(target.container_id, action.command, timeout=timeout)
        except ExecTimeout:
            return Outcome(False, f"command timed out: {action.command} timed out after {timeout:g}s")
        except (NotFound, RuntimeUnavailable) as error:
            return Outcome(None, str(error))
        except ContainerRuntimeError as error:
            return Outcome(False, str(error))
        output = (result.stdout + result.stderr)[:MAX_BODY].decode(errors="replace")
        return Outcome(result.exit_code == 0, output[:MAX_MESSAGE] or f"exit code {result.exit_code}")

    async def _http(self, action: core_v1.HTTPGetAction, target: Target, timeout: float) -> Outcome:
        port = resolve_port(action.port, target.spec)
        if port is None:
            return Outcome(False, f"no port {action.port!r} in container {target.spec.name}")
        scheme = (action.scheme or "HTTP").lower()
        host = action.host or target.address
        address = f"[{host}]" if ":" in host else host
        path = action.path or "/"
        url = f"{scheme}://{address}:{port}{path if path.startswith('/') else '/' + path}"
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close"}
        headers |= {header.name or "": header.value or "" for header in action.httpHeaders}
        try:
            # As in Kubernetes the server's certificate is not checked: the question is whether it answers.
            async with self._client().get(
                url, headers=headers, ssl=False, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                body = await response.content.read(MAX_MESSAGE)
                if 200 <= response.status < 400:
                    return Outcome(True, body.decode(errors="replace"))
                return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")
        except TimeoutError:
            return Outcome(False, f'Get "{url}": no answer within {timeout:g}s')
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return Outcome(False, f'Get "{url}": {error}')

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A connection each: a probe must not succeed because an old connection still works.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


class HollowHandlers:
    """Handlers of containers that do not run (Kubernetes: kubemark): every question is answered well."""

    async def run(self, handler: Handler, target: Target, *, timeout: float) -> Outcome:
        return Outcome(True)

    async def close(self) -> None:
        """There is nothing to close."""


async def _tcp(action: core_v1.TCPSocketAction, target: Target, timeout: float) -> Outcome:
    port = resolve_port(action.port, target.spec)
    if port is None:
        return Outcome(False, f"no port {action.port!r} in container {target.spec.name}")
    host = action.host or target.address
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Outcome(False, f"dial tcp {host}:{port}: no answer within {timeout:g}s")
    except OSError as error:
        return Outcome(False, f"dial tcp {host}:{port}: {error.strerror or error}")
    writer.close()
    with contextlib.suppress(OSError):  # the probe has its answer; how the other side ends the connection is no matter
        await writer.wait_closed()
    return Outcome(True)


def resolve_port(port: int | str | None, container: core_v1.Container) -> int | None:
    """A port by number, or by the name that the container gives it."""
    if isinstance(port, str) and not port.isdigit():
        return next((p.containerPort for p in container.ports if p.name == port), None)
    return int(port) if port is not None and 0 < int(port) < 65536 else None
