"""Ports of pods over a WebSocket: SPDY streams inside it (kubectl), or fixed channels (`v4.channel.k8s.io`).

With SPDY each connection that the client's user makes is a pair of streams, `error` and `data`, with the same request
ID; any number of pairs live side by side. SPDY's windows are not waited for: clients (spdystream) never open them. A
program that does not read makes its own pair wait, and once much has piled up for it, the whole session.

With channels the ports are fixed at the beginning, and each is connected once: channel 2i carries the data of the i-th
port, 2i+1 its error; the first message of each channel is the port's number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Awaitable, Callable

from msgspec import Struct, field

from agent.kubelet.server import spdy
from agent.kubelet.server.sockets import MessageSocket
from agent.runtime.runtime import ContainerRuntimeError

SPDY = "SPDY/3.1+portforward.k8s.io"
V4 = "v4.channel.k8s.io"
PORT_FORWARD = "portforward.k8s.io"
PROTOCOLS = (SPDY, V4, PORT_FORWARD)

CHUNK = 32 << 10
# What may wait for one program that does not read.
MAX_WAITING_BYTES = 4 << 20
MAX_STREAMS = 1024
# Kubernetes: streamCreationTimeout, for the second stream of a pair.
PAIR_SECONDS = 30.0
CLOSE_SECONDS = 5.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[int], Awaitable[Connection]]

log = logging.getLogger(__name__)


class _Inbox:
    """Bytes on their way to a program, with a bound; None is the end."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, data: bytes) -> None:
        await self._room.wait()
        self._waiting += len(data)
        if self._waiting >= MAX_WAITING_BYTES:
            self._room.clear()
        self._pieces.put_nowait(data)

    def end(self) -> None:
        """Nothing more comes."""
        self._pieces.put_nowait(None)

    def discard(self) -> None:
        """Nobody takes anything any more: whoever waits for room may go on."""
        self._waiting = -(1 << 62)
        self._room.set()

    async def get(self) -> bytes | None:
        piece = await self._pieces.get()
        if piece is not None:
            self._waiting -= len(piece)
            if self._waiting < MAX_WAITING_BYTES:
                self._room.set()
        return piece


async def _exchange(connection: Connection, inbox: _Inbox, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Carry bytes both ways until the program has closed its side. Raises OSError if the connection breaks."""
    reader, writer = connection

    async def to_program() -> None:
        while (piece := await inbox.get()) is not None:
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(to_program())
        while data := await reader.read(CHUNK):
            await send(data)
        writing.cancel()


async def _close(connection: Connection) -> None:
    connection[1].close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection[1].wait_closed()
    except OSError:  # TimeoutError is one; the program hung up, or does not: either way it is over
        connection[1].transport.abort()


def refusal(port: int, error: BaseException) -> str:
    """Why a port cannot be forwarded, as the user sees it."""
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error) or type(error).__name__
    return f"error forwarding port {port}: {reason}"


# --- channels


async def serve_channels(socket: MessageSocket, ports: list[int], connect: Connect) -> None:
    """Forward fixed ports over channels, until the programs have closed their connections or the client is gone."""
    inboxes = [_Inbox() for _ in ports]

    async def forward(index: int) -> None:
        port, inbox = ports[index], inboxes[index]
        try:
            connection = await connect(port)
        except (OSError, ContainerRuntimeError) as error:
            await socket.send(bytes([2 * index + 1]) + refusal(port, error).encode())
            inbox.discard()
            return
        try:
            await _exchange(connection, inbox, lambda data: socket.send(bytes([2 * index]) + data))
        except* OSError as errors:
            log.debug("connection to port %s broke: %s", port, errors.exceptions)
        finally:
            inbox.discard()
            await _close(connection)

    async def forward_all() -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(len(ports)):
                group.create_task(forward(index), name=f"port-forward-{ports[index]}")

    async def receive() -> None:
        while (message := await socket.receive()) is not None:
            index, is_error = divmod(message[0], 2) if message else (0, 1)
            if not is_error and index < len(inboxes) and len(message) > 1:
                await inboxes[index].put(message[1:])

    try:
        for index, port in enumerate(ports):
            number = struct.pack("<H", port)
            await socket.send(bytes([2 * index]) + number)
            await socket.send(bytes([2 * index + 1]) + number)
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(receive()), group.create_task(forward_all())}
            # Whichever ends first: the client is gone, or all programs have hung up.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    except* ConnectionError as errors:
        log.debug("the client of forwarded ports is gone: %s", errors.exceptions)


# --- SPDY


class _Pair(Struct):
    """The two streams of one forwarded connection."""

    port: int
    error: int = 0
    data: int = 0
    inbox: _Inbox = field(default_factory=_Inbox)
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class SpdySession:
    """One client's session; `connect` makes a connection to a port of the pod."""

    def __init__(self, socket: MessageSocket, connect: Connect) -> None:
        self._socket = socket
        self._connect = connect
        self._encoder = spdy.Encoder()
        self._decoder = spdy.Decoder()
        self._sending = asyncio.Lock()
        self._pairs: dict[str, _Pair] = {}
        self._streams: dict[int, tuple[str, _Pair]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until the client is gone."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._receive()
                finally:
                    for pair in self._pairs.values():
                        if pair.timer is not None:
                            pair.timer.cancel()
                        if pair.task is not None:
                            pair.task.cancel()
        except* ConnectionError as errors:
            log.debug("the client of forwarded ports is gone: %s", errors.exceptions)
        except* spdy.SpdyError as errors:
            log.info("a client does not speak SPDY: %s", errors.exceptions)

    async def _receive(self) -> None:
        while (message := await self._socket.receive()) is not None:
            for frame in self._decoder.feed(message):
                match frame:
                    case spdy.SynStream():
                        await self._open(frame)
                    case spdy.Data():
                        await self._take(frame)
                    case spdy.RstStream():
                        self._reset(frame.stream_id)
                    case spdy.Headers() if frame.fin:
                        self._end(frame.stream_id)
                    case spdy.Ping() if frame.ping_id % 2:
                        await self._send(frame)  # the client's own, for its numbers are odd
                    case _:
                        pass  # settings, windows, a farewell: nothing here depends on them

    async def _open(self, frame: spdy.SynStream) -> None:
        headers, stream_id = frame.headers, frame.stream_id
        kind, port = headers.get("streamtype", ""), headers.get("port", "")
        valid = kind in ("error", "data") and port.isdigit() and 0 < int(port) < 65536
        if not valid or stream_id in self._streams:
            await self._send(spdy.RstStream(stream_id, spdy.PROTOCOL_ERROR))
            return
        if len(self._streams) >= MAX_STREAMS:
            await self._send(spdy.RstStream(stream_id, spdy.REFUSED_STREAM))
            return
        # Old clients number nothing: there the data stream directly follows its error stream.
        request = headers.get("requestid") or f"stream-{stream_id if kind == 'error' else stream_id - 2}"
        pair = self._pairs.get(request)
        if pair is None:
            pair = self._pairs[request] = _Pair(int(port))
            pair.timer = asyncio.get_running_loop().call_later(PAIR_SECONDS, self._give_up, request)
        if getattr(pair, kind):
            await self._send(spdy.RstStream(stream_id, spdy.PROTOCOL_ERROR))
            return
        setattr(pair, kind, stream_id)
        self._streams[stream_id] = (request, pair)
        await self._send(spdy.SynReply(stream_id))
        if frame.fin:
            self._end(stream_id)
        if pair.error and pair.data:
            if pair.timer is not None:
                pair.timer.cancel()
            assert self._group is not None
            pair.task = self._group.create_task(self._forward(request, pair), name=f"port-forward-{port}")

    async def _take(self, frame: spdy.Data) -> None:
        found = self._streams.get(frame.stream_id)
        if found is None:
            return
        pair = found[1]
        if frame.stream_id == pair.data and frame.data:
            await pair.inbox.put(frame.data)
        if frame.data:
            # For peers that count: what has come does not narrow the stream or the connection.
            await self._send(spdy.WindowUpdate(frame.stream_id, len(frame.data)))
            await self._send(spdy.WindowUpdate(0, len(frame.data)))
        if frame.fin:
            self._end(frame.stream_id)

    def _end(self, stream_id: int) -> None:
        """The client sends nothing more on this stream."""
        found = self._streams.get(stream_id)
        if found is not None and found[1].data == stream_id:
            found[1].inbox.end()

    def _reset(self, stream_id: int) -> None:
        """The client wants nothing more of this stream; without its data a pair is over."""
        found = self._streams.get(stream_id)
        if found is not None and found[1].data == stream_id and found[1].task is not None:
            found[1].task.cancel()

    def _give_up(self, request: str) -> None:
        """The second stream of a pair did not come."""
        pair = self._pairs.get(request)
        if pair is not None and pair.task is None and self._group is not None:
            pair.task = self._group.create_task(self._refuse(request, pair), name="port-forward-half")

    async def _refuse(self, request: str, pair: _Pair) -> None:
        for stream_id in (pair.error, pair.data):
            if stream_id:
                await self._send(spdy.RstStream(stream_id, spdy.CANCEL))
        self._forget(request, pair)

    async def _forward(self, request: str, pair: _Pair) -> None:
        """One connection from its beginning to its end."""
        try:
            try:
                connection = await self._connect(pair.port)
            except (OSError, ContainerRuntimeError) as error:
                await self._send(spdy.Data(pair.error, refusal(pair.port, error).encode(), fin=True))
                await self._send(spdy.Data(pair.data, b"", fin=True))
                return
            problem = b""
            try:
                await _exchange(connection, pair.inbox, lambda data: self._send(spdy.Data(pair.data, data)))
            except* OSError as errors:
                problem = refusal(pair.port, errors.exceptions[0]).encode()
            finally:
                pair.inbox.discard()
                await _close(connection)
            await self._send(spdy.Data(pair.data, b"", fin=True))
            await self._send(spdy.Data(pair.error, problem, fin=True))
        finally:
            self._forget(request, pair)

    def _forget(self, request: str, pair: _Pair) -> None:
        pair.inbox.discard()
        self._pairs.pop(request, None)
        self._streams.pop(pair.error, None)
        self._streams.pop(pair.data, None)

    async def _send(self, frame: spdy.Frame) -> None:
        async with self._sending:  # frames must go out in the order in which they were encoded
            await self._socket.send(self._encoder.encode(frame))
