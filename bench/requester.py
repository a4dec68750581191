"""A small HTTP/1.1 client over TLS: it must cost less than the servers that it measures.

Requests are bytes that were prepared before; an answer is read to its end, and only its status is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a series of requests: how many a second, latencies in ms, bytes of the last answer."""

    count: int
    per_second: float
    p50_ms: float
    p99_ms: float
    size: int


def request(method: str, path: str, body: bytes = b"", *, content_type: str = "application/json") -> bytes:
    """The bytes of one request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if body:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def send(host: str, port: int, tls: ssl.SSLContext, requests: Sequence[bytes], *, connections: int) -> Load:
    """Send all requests over so many connections, each waiting for its answer. RuntimeError for a status of 400+."""
    waiting = iter(requests)
    latencies: list[float] = []
    sizes: list[int] = [0]

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for data in waiting:
            start = time.perf_counter()
            writer.write(data)
            sizes[0] = await _answer(reader)
            latencies.append(time.perf_counter() - start)

    opened = [await asyncio.open_connection(host, port, ssl=tls, limit=1 << 22) for _ in range(connections)]
    try:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for reader, writer in opened:
                group.create_task(work(reader, writer))
        elapsed = time.perf_counter() - begun
    finally:
        for _, writer in opened:
            writer.close()
    latencies.sort()
    count = len(latencies)
    p50, p99 = latencies[count // 2] * 1e3, latencies[count * 99 // 100] * 1e3
    return Load(count, count / elapsed, p50, p99, sizes[0])


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer; the size of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        size = int(lower[at + 17 : lower.index(b"\r\n", at + 2)])
        body = await reader.readexactly(size) if size else b""
    else:
        body = await _chunks(reader)
    if status >= 400:
        raise RuntimeError(f"{status}: {body[:300]!r}")
    return len(body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)
