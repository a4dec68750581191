"""Local ports whose connections come out on a machine (OpenSSH: `ssh -L`).

The port listens on loopback only. Each connection gets a channel and two threads, one a direction: with one thread
for both, a reader that waits would keep the writer from its work as soon as both sides have much to say.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from provision.ssh.errors import SSHError

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024


class Stream(Protocol):
    """A socket, or a channel that behaves as one."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


class LocalForward:
    """A listener on loopback; `open_stream` makes the other end for each connection."""

    def __init__(self, open_stream: Callable[[], Stream], *, port: int = 0) -> None:
        """OSError if the port is taken."""
        self._open_stream = open_stream
        self._listener = socket.create_server(("127.0.0.1", port))
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name="ssh-forward", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening and end what is open."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            streams = list(self._streams)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        for stream in streams:
            _hang_up(stream)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(near,), name="ssh-forward-open", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = self._open_stream()
        except (SSHError, OSError) as error:
            # Whoever connected sees the connection end; the reason is for the log.
            logger.warning("a forwarded connection could not be opened: %s", error)
            near.close()
            return
        with self._lock:
            self._streams |= {near, far}
            if self._closed:
                _hang_up(near)
                _hang_up(far)
        back = threading.Thread(target=_pump, args=(far, near), name="ssh-forward-back", daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        near.close()
        far.close()
        with self._lock:
            self._streams -= {near, far}


def _pump(source: Stream, target: Stream) -> None:
    """Carry everything one way, then pass the end on; an error ends both ways."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except (OSError, EOFError):  # EOFError: paramiko's, of a connection that was closed meanwhile
        _hang_up(source)
        _hang_up(target)


def _hang_up(stream: Stream) -> None:
    with contextlib.suppress(OSError, EOFError):
        stream.shutdown(socket.SHUT_RDWR)
