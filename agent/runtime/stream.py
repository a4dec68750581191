"""Bytes to and from a container: commands, attached terminals, log lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct


class StreamName(StrEnum):
    """Which output of the process; with a terminal everything is stdout."""

    STDOUT = "stdout"
    STDERR = "stderr"


class ExecResult(Struct, frozen=True):
    """What a command said and how it ended (CRI: ExecSyncResponse). Each output is cut at `MAX_OUTPUT_BYTES`."""

    stdout: bytes
    stderr: bytes
    exit_code: int


# As CRI's runtimes: a probe that prints without end must not fill the agent's memory.
MAX_OUTPUT_BYTES = 16 << 20


class LogLine(Struct, frozen=True):
    """A piece of a container's log.

    `data` ends with a newline, except where the runtime split a long line (the next piece goes on with it) or the
    process wrote none. `timestamp` is RFC 3339 in UTC with nanoseconds: text, for datetime would lose three digits.
    """

    stream: StreamName
    timestamp: str
    data: bytes


class ContainerStream(Protocol):
    """A process's standard streams while a client is connected (CRI: Exec and Attach, without the URL detour).

    One task reads and one writes, at most. Leaving the `async with` block disconnects; it does not end the process.
    """

    async def read(self) -> tuple[StreamName, bytes] | None:
        """The next bytes of output and where they came from; None at the end of both."""

    def __aiter__(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        """All output to its end."""

    async def write(self, data: bytes) -> None:
        """Give bytes to stdin; waits while the process does not take them."""

    async def close_stdin(self) -> None:
        """End stdin: the process reads end-of-file."""

    async def resize(self, *, width: int, height: int) -> None:
        """Tell the terminal its new size in characters; without a terminal nothing happens."""

    async def wait(self) -> int:
        """The exit code, once the process has ended. Read the output to its end first."""

    async def close(self) -> None:
        """Disconnect. May be called again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
