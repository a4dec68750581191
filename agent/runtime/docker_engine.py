"""The connection to one Docker Engine, for everything in `docker_*.py`.

Two ways lead to the engine, because its calls are of two kinds:

- *short ones* (create, start, inspect, list, remove) go through the Docker SDK. It blocks, so they run in small
  thread pools of their own; each is over in milliseconds, at worst after `timeout` seconds. Those that change what
  runs (start, remove) take half a second each, and the engine does them nearly one by one: they have a pool to
  themselves, or else sixty pods that start together let every probe of the others wait for them and fail;
- *long ones* (events, logs, exec, attach, waiting for a container to stop, pulling, loading) last as long as a
  container or a registry likes. One thread for each would empty the pool: a node with a dozen `kubectl logs -f`
  could start no pod any more. They go through aiohttp over the same socket, and a waiting one costs a file
  descriptor. exec and attach turn the HTTP connection into a raw one, which an HTTP client does not give away; for
  them the request's few lines are written to a plain socket.

Errors of both ways come out as the types of `agent.runtime.errors`.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import docker
import docker.errors

from agent.runtime.errors import ContainerError, ContainerRuntimeError, ImageNotFound, NotFound, RuntimeUnavailable

T = TypeVar("T")

DEFAULT_SOCKET = Path("/var/run/docker.sock")
WORKERS = 8
HEAVY_WORKERS = 4
TIMEOUT = 60

_log = logging.getLogger(__name__)


class DockerEngine:
    """One Docker Engine behind a unix socket. Made inside a running event loop, used by that loop only."""

    def __init__(self, path: Path = DEFAULT_SOCKET, *, workers: int = WORKERS, timeout: int = TIMEOUT) -> None:
        """`workers` bounds the short calls at work at the same time, `timeout` (seconds) how long each may take."""
        self.socket = path
        self._timeout = timeout
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="docker")
        self._heavy = ThreadPoolExecutor(HEAVY_WORKERS, thread_name_prefix="docker-heavy")
        self._client: docker.APIClient | None = None
        self._client_lock = threading.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def call(self, what: str, function: Callable[[docker.APIClient], T], *, heavy: bool = False) -> T:
        """Run a short call of the SDK in a pool; `what` names the deed for error messages ("start container X").

        `heavy` for those that start or remove something and must not keep the others waiting.
        A cancelled caller leaves at once, the call itself goes on to its end. Raises ContainerRuntimeError.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._heavy if heavy else self._pool, self._call, what, function)

    @asynccontextmanager
    async def request(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: AsyncIterator[bytes] | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A long call: the answer, whose body the caller reads inside the block.

        `timeout` bounds the whole block in seconds; None for streams that last as long as they last. Raises
        ContainerRuntimeError, also from inside the block where the connection breaks.
        """
        url = f"http://docker/v{await self._version()}{path}"
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
        try:
            async with self._http().request(
                method, url, params=params, headers=headers, data=data, timeout=limits
            ) as response:
                if response.status >= 400:
                    raise engine_error(what, response.status, _message(await response.read()))
                yield response
        except TimeoutError as error:
            raise self._unavailable(what, f"no answer in {timeout or 10:g} s") from error
        except aiohttp.ClientError as error:
            raise self._unavailable(what, str(error)) from error

    async def hijack(
        self, what: str, path: str, *, body: Mapping[str, Any] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """POST and take the connection over: from then on it carries the process's streams (exec, attach)."""
        version = await self._version()
        content = json.dumps(dict(body or {})).encode()
        head = (
            f"POST /v{version}{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                try:
                    writer.write(head.encode() + content)
                    status_line, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
                    status = int(status_line.split()[1])
                    if status >= 300:
                        headers = http.client.parse_headers(io.BytesIO(rest))
                        answer = await reader.readexactly(int(headers.get("Content-Length", "0")))
                        raise engine_error(what, status, _message(answer))
                except BaseException:
                    writer.close()
                    raise
        except (OSError, EOFError, TimeoutError) as error:
            raise self._unavailable(what, str(error) or f"no answer in {self._timeout} s") from error
        return reader, writer

    async def close(self) -> None:
        """Close connections; waits for short calls at work."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self._heavy.shutdown)
        if self._client is not None:
            self._client.close()
            self._client = None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit: each followed log is a connection.
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self.socket), limit=0))
        return self._session

    async def _version(self) -> str:
        client = self._client
        return client.api_version if client is not None else await self.call("ask for the version", _api_version)

    def _call(self, what: str, function: Callable[[docker.APIClient], T]) -> T:
        self._knock(what)
        try:
            return function(self._connected())
        except docker.errors.APIError as error:
            raise engine_error(what, error.status_code, error.explanation or str(error)) from error
        except (docker.errors.DockerException, OSError) as error:  # every error of requests is an OSError
            with self._client_lock:
                self._client = None  # the engine that comes back may speak another version
            raise self._unavailable(what, str(error)) from error

    def _knock(self, what: str) -> None:
        # Where nobody listens, the SDK raises and leaves its socket to the garbage collector (a ResourceWarning).
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(self._timeout)
            try:
                client.connect(str(self.socket))
            except OSError as error:
                raise self._unavailable(what, str(error)) from error

    def _connected(self) -> docker.APIClient:
        with self._client_lock:
            if self._client is None:
                self._client = docker.APIClient(
                    base_url=f"unix://{self.socket}", timeout=self._timeout, max_pool_size=self._workers + HEAVY_WORKERS
                )
                _log.debug("connected to Docker Engine at %s, API %s", self.socket, self._client.api_version)
            return self._client

    def _unavailable(self, what: str, found: str) -> RuntimeUnavailable:
        return RuntimeUnavailable(
            f"cannot {what}: Docker Engine does not answer",
            found=found,
            wanted=f"an engine at {self.socket}",
            mend="Start it (systemctl start docker) and look at its log (journalctl -u docker).",
        )


def engine_error(what: str, status: int | None, message: str) -> ContainerRuntimeError:
    """The error for an HTTP status of the engine's API and the message that came with it."""
    lowered = message.lower()
    if status == 404 and "no such image" in lowered:
        return ImageNotFound(
            f"cannot {what}: the image is not on this node", found=message, mend="Pull it or `ktool image load` it."
        )
    if status == 404 and ("no such " in lowered or lowered.startswith("network ")):
        return NotFound(f"cannot {what}: it does not exist", found=message)
    return ContainerError(f"cannot {what}", found=message)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()


def _api_version(client: docker.APIClient) -> str:
    return client.api_version
