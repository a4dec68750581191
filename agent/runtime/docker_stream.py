"""Raw streams of Docker Engine: exec and attach, and the frames that carry two outputs over one connection.

Without a terminal the engine puts stdout and stderr into frames: one byte for which (1 or 2), three zero bytes, the
length in four bytes, the data. With a terminal the bytes come as they are.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from agent.runtime.errors import RuntimeUnavailable
from agent.runtime.stream import StreamName

_HEADER = struct.Struct(">BxxxL")
_STREAMS = {0: StreamName.STDOUT, 1: StreamName.STDOUT, 2: StreamName.STDERR}
_CHUNK = 1 << 16
_CLOSE_SECONDS = 5.0


class Reader(Protocol):
    """Where frames come from: asyncio's StreamReader and aiohttp's both are."""

    async def readexactly(self, n: int) -> bytes:
        """n bytes, or IncompleteReadError at the end."""


async def read_frame(reader: Reader) -> tuple[StreamName, bytes] | None:
    """The next frame; None at the end. Raises RuntimeUnavailable if the stream ends inside a frame."""
    try:
        header = await reader.readexactly(_HEADER.size)
        number, length = _HEADER.unpack(header)
        return _STREAMS.get(number, StreamName.STDOUT), await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _HEADER.size:
            return None
        raise RuntimeUnavailable(
            "the stream from Docker Engine broke off", found=f"{len(error.partial)} of {error.expected} bytes"
        ) from error
    except ConnectionError as error:
        raise RuntimeUnavailable("the stream from Docker Engine broke off", found=str(error)) from error


async def json_lines(content: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a body that has one a line; lines of any length."""
    pending = b""
    async for chunk in content.iter_any():
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)
    if pending.strip():
        yield json.loads(pending)


class DockerStream:
    """A ContainerStream over a connection that was taken over from the engine's API."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        tty: bool,
        resize: Callable[[int, int], Awaitable[None]],
        wait: Callable[[], Awaitable[int]],
        keep_stdin: bool = False,
    ) -> None:
        """`resize` takes width and height, `wait` gives the exit code; both ask the engine.

        `keep_stdin`: the process's stdin outlives this connection, and `close_stdin` does nothing.
        """
        self._reader = reader
        self._writer = writer
        self._tty = tty
        self._resize = resize
        self._wait = wait
        self._keep_stdin = keep_stdin

    async def read(self) -> tuple[StreamName, bytes] | None:
        """The next bytes of output and where they came from; None at the end of both."""
        if not self._tty:
            return await read_frame(self._reader)
        try:
            data = await self._reader.read(_CHUNK)
        except ConnectionError as error:
            raise RuntimeUnavailable("the stream from Docker Engine broke off", found=str(error)) from error
        return (StreamName.STDOUT, data) if data else None

    async def __aiter__(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        """All output to its end."""
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """Give bytes to stdin. Raises RuntimeUnavailable if nobody reads them any more."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as error:
            raise RuntimeUnavailable("the process's standard input is closed", found=str(error)) from error

    async def close_stdin(self) -> None:
        """End stdin by closing our half of the connection; output goes on."""
        if self._keep_stdin:
            return
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def resize(self, *, width: int, height: int) -> None:
        """Tell the terminal its new size; without a terminal nothing happens."""
        if self._tty:
            await self._resize(width, height)

    async def wait(self) -> int:
        """The exit code, once the process has ended."""
        return await self._wait()

    async def close(self) -> None:
        """Disconnect. May be called again."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()  # the engine hung up first, or does not: either way it is over

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
