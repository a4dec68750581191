"""Commands and attached containers over a WebSocket (Kubernetes: remotecommand, `v5.channel.k8s.io` and `v4`).

Each message begins with a byte that says which channel it is of: 0 stdin, 1 stdout, 2 stderr, 3 the outcome (a Status
as JSON, sent once at the end), 4 the terminal's new size (JSON). In v5 the message 255, 0 ends stdin; in v4 nothing
can. The outcome tells how the command ended: an exit code other than 0 is a Status whose cause is `ExitCode`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from msgspec import Struct

from agent.kubelet.server.sockets import MessageSocket
from agent.runtime.runtime import ContainerRuntimeError, ContainerStream, StreamName
from kube import status

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
PROTOCOLS = (V5, V4)

STDIN, STDOUT, STDERR, OUTCOME, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255

log = logging.getLogger(__name__)


class StreamOptions(Struct, frozen=True):
    """Which streams the client wants (Kubernetes: PodExecOptions)."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False

    @classmethod
    def parse(cls, flags: Callable[[str], bool]) -> StreamOptions:
        """From the query's flags (`input`, `output`, `error`, `tty`); ApiError 400 if no stream is asked for."""
        tty = flags("tty")
        # A terminal has one output.
        found = cls(flags("input"), flags("output"), flags("error") and not tty, tty)
        if not (found.stdin or found.stdout or found.stderr):
            raise status.bad_request("you must specify at least 1 of stdin, stdout, stderr")
        return found


async def serve(
    socket: MessageSocket,
    protocol: str,
    options: StreamOptions,
    start: Callable[[], Awaitable[ContainerStream]],
    *,
    exit_code: bool,
) -> None:
    """Connect a client with a process until the process has ended or the client is gone.

    `start` connects to the process. With `exit_code` the outcome tells the process' end (a command); without, only
    that the connection ended (attach).
    """
    try:
        await _greet(socket, options)
        stream = await start()
    except ContainerRuntimeError as error:
        await _tell(socket, failed(str(error)))
        return
    except ConnectionError as error:
        log.debug("the client is gone before the command has begun: %s", error)
        return
    async with stream:
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(_from_client(socket, protocol, options, stream))
                writing = group.create_task(_to_client(socket, options, stream, exit_code=exit_code))
                # Whichever ends first: the process has ended, or the client is gone.
                await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
                reading.cancel()
                writing.cancel()
        except* ConnectionError as errors:
            log.debug("the client of a command is gone: %s", errors.exceptions)


async def _greet(socket: MessageSocket, options: StreamOptions) -> None:
    """An empty message of the lowest channel that the client reads: the connection stands (as Kubernetes does)."""
    await socket.send(bytes([STDOUT if options.stdout else STDERR if options.stderr else OUTCOME]))


async def _from_client(socket: MessageSocket, protocol: str, options: StreamOptions, stream: ContainerStream) -> None:
    """What the client sends, until it is gone. What a process no longer reads is dropped."""
    writable = options.stdin
    while (message := await socket.receive()) is not None:
        if not message:
            continue
        channel, data = message[0], message[1:]
        try:
            if channel == STDIN and writable and data:
                await stream.write(data)
            elif channel == CLOSE and protocol == V5 and data[:1] == bytes([STDIN]) and writable:
                writable = False
                await stream.close_stdin()
            elif channel == RESIZE and options.tty:
                size = terminal_size(data)
                if size is not None:
                    await stream.resize(width=size[0], height=size[1])
        except ContainerRuntimeError as error:
            # The process has closed its stdin, or has just ended; its output still counts.
            log.debug("not taken by the process: %s", error)
            writable = writable and channel != STDIN


async def _to_client(
    socket: MessageSocket, options: StreamOptions, stream: ContainerStream, *, exit_code: bool
) -> None:
    """The process' output to its end, then the outcome."""
    channels = {StreamName.STDOUT: STDOUT, StreamName.STDERR: STDERR}
    wanted = {StreamName.STDOUT: options.stdout, StreamName.STDERR: options.stderr}
    try:
        while (piece := await stream.read()) is not None:
            name, data = piece
            if wanted[name] and data:
                await socket.send(bytes([channels[name]]) + data)
        outcome = ended(await stream.wait()) if exit_code else status.success_status()
    except ContainerRuntimeError as error:
        outcome = failed(str(error))
    await _tell(socket, outcome)


async def _tell(socket: MessageSocket, outcome: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):  # nobody is there to be told
        await socket.send(bytes([OUTCOME]) + orjson.dumps(outcome))


def ended(code: int) -> dict[str, Any]:
    """The outcome of a command that ended with an exit code."""
    if code == 0:
        return status.success_status()
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: error executing command: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failed(message: str) -> dict[str, Any]:
    """The outcome where the command could not be run, or nobody knows how it ended."""
    return status.internal_error(f"error executing command in container: {message}").to_status()


def terminal_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in characters out of a resize message; None for one that makes no sense."""
    try:
        size = orjson.loads(data)
        width, height = int(size["Width"]), int(size["Height"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return (width, height) if 0 < width < 1 << 16 and 0 < height < 1 << 16 else None
