"""The two ends of a WebSocket in memory, and processes that play a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from agent.runtime.runtime import RuntimeUnavailable, StreamName


class MemorySocket:
    """A MessageSocket; the test is the client: `incoming` is what it sends, `sent` what it gets."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.changed = asyncio.Event()
        self.gone = False

    def put(self, *messages: bytes | None) -> None:
        for message in messages:
            self.incoming.put_nowait(message)

    async def receive(self) -> bytes | None:
        return await self.incoming.get()

    async def send(self, data: bytes) -> None:
        if self.gone:
            raise ConnectionResetError("the client is gone")
        self.sent.append(data)
        self.changed.set()

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait until what was sent is enough."""
        async with asyncio.timeout(20):
            while not wanted():
                self.changed.clear()
                await self.changed.wait()

    def channel(self, number: int) -> bytes:
        """All bytes of one channel."""
        return b"".join(message[1:] for message in self.sent if message[0] == number)


class Script:
    """A ContainerStream: a process that echoes its stdin and ends with it."""

    def __init__(self, *, code: int = 0, said: list[tuple[StreamName, bytes]] | None = None) -> None:
        self.code = code
        self.sizes: list[tuple[int, int]] = []
        self.closed = False
        self.deaf = False
        self._output: asyncio.Queue[tuple[StreamName, bytes] | None] = asyncio.Queue()
        for piece in said or []:
            self._output.put_nowait(piece)

    def end(self) -> None:
        self._output.put_nowait(None)

    async def read(self) -> tuple[StreamName, bytes] | None:
        return await self._output.get()

    async def __aiter__(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        if self.deaf:
            raise RuntimeUnavailable("the process's standard input is closed")
        self._output.put_nowait((StreamName.STDOUT, data))

    async def close_stdin(self) -> None:
        self.end()

    async def resize(self, *, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def wait(self) -> int:
        return self.code

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
