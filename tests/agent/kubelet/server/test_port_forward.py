"""Forwarded ports to real servers on loopback, over SPDY streams and over channels."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agent.kubelet.server import port_forward, spdy
from agent.kubelet.server.port_forward import Connection, SpdySession, serve_channels
from tests.agent.kubelet.server.sessions import MemorySocket

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def connect(port: int) -> Connection:
    return await asyncio.open_connection("127.0.0.1", port)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says everything in upper case; ends with its client."""
    while data := await reader.read(1000):
        writer.write(data.upper())
    writer.write(b" BYE")
    writer.close()


async def closed_port() -> int:
    async with server(echo) as port:
        return port


@asynccontextmanager
async def server(serve: Serve = echo) -> AsyncIterator[int]:
    """A program that listens; all its connections have ended when the block is left."""
    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):  # the client may hang up at any time
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for task in handlers if task is not None))


class SpdyClient:
    """kubectl's side of a session."""

    def __init__(self) -> None:
        self.socket = MemorySocket()
        self.encoder, self.decoder = spdy.Encoder(), spdy.Decoder()
        self.frames: list[spdy.Frame] = []
        self._seen = 0

    def send(self, *frames: spdy.Frame) -> None:
        self.socket.put(*(self.encoder.encode(frame) for frame in frames))

    def open(self, number: int, port: int, *, request: str | None = None) -> tuple[int, int]:
        """The two streams of a connection: (error, data)."""
        error = 4 * number + 1
        extra = {} if request == "" else {"requestID": request or str(number)}
        for stream_id, kind in ((error, "error"), (error + 2, "data")):
            self.send(spdy.SynStream(stream_id, {"streamtype": kind, "port": str(port), **extra}))
        self.send(spdy.Data(error, b"", fin=True))
        return error, error + 2

    async def until(self, wanted: Callable[[list[spdy.Frame]], bool]) -> None:
        """Take what has come until it is enough."""
        async with asyncio.timeout(5):
            while not wanted(self.frames):
                self.socket.changed.clear()
                while self._seen < len(self.socket.sent):
                    self.frames += self.decoder.feed(self.socket.sent[self._seen])
                    self._seen += 1
                if not wanted(self.frames):
                    await self.socket.changed.wait()

    async def all_of(self, stream_id: int) -> bytes:
        """The bytes of one stream, once it has ended."""
        await self.until(lambda frames: any(spdy_end(frame, stream_id) for frame in frames))
        return b"".join(f.data for f in self.frames if isinstance(f, spdy.Data) and f.stream_id == stream_id)


def spdy_end(frame: spdy.Frame, stream_id: int) -> bool:
    return isinstance(frame, spdy.Data) and frame.stream_id == stream_id and frame.fin


@asynccontextmanager
async def session() -> AsyncIterator[SpdyClient]:
    client = SpdyClient()
    async with asyncio.timeout(10):
        task = asyncio.create_task(SpdySession(client.socket, connect).run())
        try:
            yield client
        finally:
            client.socket.put(None)
            await task


@pytest.mark.parametrize("request_id", [None, ""])
async def test_a_connection(request_id: str | None) -> None:
    async with server() as port, session() as client:
        error, data = client.open(0, port, request=request_id)
        client.send(spdy.Data(data, b"hello "), spdy.Data(data, b"there", fin=True))
        assert await client.all_of(data) == b"HELLO THERE BYE"
        assert await client.all_of(error) == b""
        replies = [frame.stream_id for frame in client.frames if isinstance(frame, spdy.SynReply)]
        assert replies == [error, data]


async def test_connections_side_by_side() -> None:
    async with server() as port, session() as client:
        pairs = [client.open(number, port) for number in range(20)]
        for _, data in pairs:
            client.send(spdy.Data(data, f"stream {data} ".encode() * 1000))
        for _, data in reversed(pairs):
            client.send(spdy.Data(data, b"", fin=True))
        for error, data in pairs:
            assert await client.all_of(data) == f"STREAM {data} ".encode() * 1000 + b" BYE"
            assert await client.all_of(error) == b""


async def test_nothing_listens() -> None:
    port = await closed_port()
    async with session() as client:
        error, data = client.open(0, port)
        text = (await client.all_of(error)).decode()
        assert text.startswith(f"error forwarding port {port}: ")
        assert "refused" in text.lower()
        assert await client.all_of(data) == b""


async def test_the_program_hangs_up_first() -> None:
    async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 200_000)
        writer.close()

    async with server(brief) as port, session() as client:
        error, data = client.open(0, port)
        assert len(await client.all_of(data)) == 200_000
        assert await client.all_of(error) == b""


async def test_a_stream_that_is_reset_ends_its_connection() -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        ended.set()
        writer.close()

    async with server(wait) as port, session() as client:
        _, data = client.open(0, port)
        await client.until(lambda frames: any(isinstance(f, spdy.Data) and f.data == b"hello" for f in frames))
        client.send(spdy.RstStream(data, spdy.CANCEL))
        async with asyncio.timeout(5):
            await ended.wait()
        _, data = client.open(1, port)
        await client.until(lambda frames: any(isinstance(f, spdy.Data) and f.stream_id == data for f in frames))


async def test_a_client_that_goes_away_ends_all_connections() -> None:
    left = asyncio.Queue[None]()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        await reader.read()
        left.put_nowait(None)
        writer.close()

    async with server(wait) as port:
        async with session() as client:
            streams = [client.open(number, port)[1] for number in range(3)]
            await client.until(
                lambda frames: {f.stream_id for f in frames if isinstance(f, spdy.Data) and f.data} >= set(streams)
            )
        async with asyncio.timeout(5):
            for _ in range(3):
                await left.get()


async def test_a_program_that_does_not_read_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await reader.read()
        writer.close()

    async with server(deaf) as quiet, server() as port, session() as client:
        _, blocked = client.open(0, quiet)
        for _ in range(30):
            client.send(spdy.Data(blocked, b"x" * 100_000))  # fits into what may wait
        _, data = client.open(1, port)
        client.send(spdy.Data(data, b"hello", fin=True))
        assert await client.all_of(data) == b"HELLO BYE"
        release.set()


async def test_pings_and_strange_streams() -> None:
    async with session() as client:
        client.send(spdy.Settings({4: 1}), spdy.Ping(1), spdy.Ping(2), spdy.GoAway(0))
        client.send(spdy.SynStream(1, {"streamtype": "other", "port": "80"}))
        client.send(spdy.SynStream(3, {"streamtype": "data", "port": "0"}))
        client.send(spdy.Data(99, b"to nobody"))
        await client.until(lambda frames: len(frames) >= 3)
        assert client.frames == [
            spdy.Ping(1),
            spdy.RstStream(1, spdy.PROTOCOL_ERROR),
            spdy.RstStream(3, spdy.PROTOCOL_ERROR),
        ]


async def test_half_a_pair_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_forward, "PAIR_SECONDS", 0.05)
    async with session() as client:
        client.send(spdy.SynStream(1, {"streamtype": "error", "port": "80", "requestid": "0"}))
        await client.until(lambda frames: spdy.RstStream(1, spdy.CANCEL) in frames)


async def test_what_is_not_spdy_ends_the_session() -> None:
    client = SpdyClient()
    async with asyncio.timeout(5):
        client.socket.put(b"\x80\x02\x00\x01\x00\x00\x00\x00")
        await SpdySession(client.socket, connect).run()


# --- channels


async def test_channels() -> None:
    none = await closed_port()
    async with server() as port:
        socket = MemorySocket()
        socket.put(b"\x00hello", b"\x02lost", b"\x01ignored", b"\x09ignored", b"")
        task = asyncio.create_task(serve_channels(socket, [port, none], connect))
        async with asyncio.timeout(5):
            await socket.until(lambda: b"HELLO" in socket.channel(0) and len(socket.channel(3)) > 10)
            assert socket.channel(0).startswith(struct.pack("<H", port))
            assert socket.channel(1) == struct.pack("<H", port)
            assert socket.channel(3).startswith(struct.pack("<H", none) + b"error forwarding port")
            socket.put(None)
            await task


async def test_channels_end_with_their_programs() -> None:
    async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async with server(brief) as port:
        socket = MemorySocket()
        async with asyncio.timeout(5):
            await serve_channels(socket, [port], connect)
        assert socket.channel(0)[2:] == b"bye"
