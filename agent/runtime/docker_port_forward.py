"""Connections to a pod's ports from inside its network namespace (CRI: PortForward).

A program may listen on its pod's loopback only, so connecting to the pod's address from outside is not enough. A
socket belongs to the namespace of the thread that makes it, for good: a short-lived thread enters the pod's namespace,
makes the socket and ends; everything else happens in the event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from pathlib import Path
from typing import Any

from agent.runtime.docker_engine import DockerEngine
from agent.runtime.errors import ContainerError

CONNECT_SECONDS = 10.0
_CLONE_NEWNET = 0x40000000
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_libc = ctypes.CDLL(None, use_errno=True)


async def connect(
    engine: DockerEngine, sandbox_id: str, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a port of the sandbox's loopback, IPv4 before IPv6.

    Raises ContainerError if the sandbox does not run or cannot be entered, OSError if nothing answers on the port.
    """
    what = f"forward port {port} of sandbox {sandbox_id}"
    found: dict[str, Any] = await engine.call(what, lambda api: dict(api.inspect_container(sandbox_id)))
    pid = int(found["State"].get("Pid") or 0)
    if not found["State"]["Running"] or pid <= 0:
        raise ContainerError(f"cannot {what}: it does not run", found=found["State"]["Status"], wanted="running")
    refused: OSError | None = None
    for family, address in _LOOPBACKS:
        try:
            connection = await _socket_inside(pid, sandbox_id, family)
        except (OSError, ProcessLookupError) as error:
            raise ContainerError(f"cannot {what}", found=str(error), wanted="a network namespace to enter") from error
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
                return await asyncio.open_connection(sock=connection)
        except OSError as error:  # TimeoutError is one
            connection.close()
            refused = refused or error
        except BaseException:
            connection.close()
            raise
    assert refused is not None
    raise refused


async def _socket_inside(pid: int, container_id: str, family: int) -> socket.socket:
    """A socket of the process's network namespace."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()

    def hand_over(result: socket.socket | None, error: OSError | None) -> None:
        if made.done():  # nobody waits any more
            if result is not None:
                result.close()
        elif result is not None:
            made.set_result(result)
        elif error is not None:
            made.set_exception(error)

    def work() -> None:
        try:
            entered = _enter_and_make(pid, container_id, family)
        except OSError as error:
            loop.call_soon_threadsafe(hand_over, None, error)
        else:
            loop.call_soon_threadsafe(hand_over, entered, None)

    # A thread of its own, not one of a pool: it stays in that namespace until it ends.
    threading.Thread(target=work, name=f"netns-{pid}", daemon=True).start()
    return await made


def _enter_and_make(pid: int, container_id: str, family: int) -> socket.socket:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Read after the namespace was opened: the process id still means this container, or it is refused.
        if container_id not in Path(f"/proc/{pid}/cgroup").read_text():
            raise ProcessLookupError(f"process {pid} is not of container {container_id}")
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "setns")
    finally:
        os.close(namespace)
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    return made
