"""Container logs from Docker Engine, as a stream that may be followed.

The engine keeps each line with its time and gives it as a frame (see docker_stream): the time, a space, the line.
A container with a terminal has no frames, only lines.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import aiohttp

from agent.runtime import docker_times
from agent.runtime.docker_engine import DockerEngine
from agent.runtime.docker_stream import read_frame
from agent.runtime.stream import LogLine, StreamName


async def read(
    engine: DockerEngine,
    container_id: str,
    *,
    follow: bool = False,
    tail_lines: int | None = None,
    since: datetime | None = None,
) -> AsyncGenerator[LogLine, None]:
    """The log's lines, oldest first; with `follow` until the container has ended."""
    what = f"read the log of container {container_id}"
    tty = await engine.call(what, lambda api: bool(api.inspect_container(container_id)["Config"]["Tty"]))
    params = query(follow=follow, tail_lines=tail_lines, since=since)
    async with (
        engine.request(what, "GET", f"/containers/{container_id}/logs", params=params) as response,
        aclosing(_terminal_lines(response.content) if tty else _framed_lines(response.content)) as lines,
    ):
        async for line in lines:
            yield line


def query(*, follow: bool, tail_lines: int | None, since: datetime | None) -> dict[str, str]:
    """The query parameters of the engine's logs request."""
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": str(int(follow))}
    if tail_lines is not None:
        params["tail"] = str(tail_lines)
    if since is not None:
        params["since"] = docker_times.unix(since)
    return params


def parse_line(stream: StreamName, text: bytes) -> LogLine:
    """One line with its time in front."""
    timestamp, _, data = text.partition(b" ")
    return LogLine(stream, timestamp.decode(errors="replace"), data)


async def _framed_lines(content: aiohttp.StreamReader) -> AsyncGenerator[LogLine, None]:
    while (frame := await read_frame(content)) is not None:
        yield parse_line(*frame)


async def _terminal_lines(content: aiohttp.StreamReader) -> AsyncGenerator[LogLine, None]:
    pending = b""
    async for chunk in content.iter_any():
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield parse_line(StreamName.STDOUT, line + b"\n")
    if pending:
        yield parse_line(StreamName.STDOUT, pending)
