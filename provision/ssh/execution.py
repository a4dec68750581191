"""One command in one channel: feed it, listen to both its outputs, and know when it is over.

Three things go on at once. Its input is written by a thread, since writing blocks when the machine does not read.
Both outputs are read by the caller's thread, whichever has something: if one were left alone, its window would fill
and the command would stand still. And the clock runs. A command is over when both outputs have ended and its status
has come; one that left a child behind which holds the outputs open (a daemon) is over a moment after its status.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from provision.ssh.commands import Become, Output
from provision.ssh.shell import OnLine

CHUNK = 256 * 1024
# How long outputs are read on after the command's end.
LINGER_SECONDS = 1.0
POLL_SECONDS = 0.5


class Ended(Protocol):
    """Tells when the exit status has come."""

    def wait(self, timeout: float, /) -> bool: ...


class Channel(Protocol):
    """What is needed of a paramiko Channel, by the same names. `exit_status` is negative where there is none."""

    @property
    def closed(self) -> bool: ...

    @property
    def eof_received(self) -> int: ...

    @property
    def exit_status(self) -> int: ...

    @property
    def status_event(self) -> Ended: ...

    def fileno(self) -> int: ...

    def recv_ready(self) -> bool: ...

    def recv(self, size: int, /) -> bytes: ...

    def recv_stderr_ready(self) -> bool: ...

    def recv_stderr(self, size: int, /) -> bytes: ...

    def exit_status_ready(self) -> bool: ...

    def sendall(self, data: bytes, /) -> None:
        """OSError or EOFError when nobody reads any more."""
        ...

    def shutdown_write(self) -> None: ...

    def close(self) -> None: ...


class Execution:
    """A command that runs in a channel on which it has just been started."""

    def __init__(self, channel: Channel, *, become: Become | None, on_line: OnLine | None) -> None:
        self._channel = channel
        self._become = become
        self._stdout = Lines(on_line)
        self._stderr = Lines(on_line)
        # What sudo says before it lets the command pass; None once it has.
        self._before: bytes | None = b"" if become is not None else None
        self._asked = 0
        self._may_write = threading.Event()
        if become is None or not become.password:
            self._may_write.set()

    def run(self, stdin: bytes | Path, *, timeout: float) -> Output:
        """Until its end, or for `timeout` seconds: then the status is None."""
        writer = threading.Thread(target=self._write, args=(stdin,), name="ssh-stdin", daemon=True)
        writer.start()
        try:
            status = self._listen(time.monotonic() + timeout)
        finally:
            self._channel.close()
            self._may_write.set()
            writer.join(5)
        became = self._before is None
        return Output(status, self._stdout.end(), self._before or b"" if not became else self._stderr.end(), became)

    def _write(self, stdin: bytes | Path) -> None:
        self._may_write.wait()
        try:
            for chunk in chunks(stdin):
                self._channel.sendall(chunk)
            self._channel.shutdown_write()
        except (OSError, EOFError):  # EOFError is paramiko's for a connection that is gone
            pass  # the command ended without reading all of it: its status says whether that is bad

    def _listen(self, deadline: float) -> int | None:
        channel = self._channel
        poller = select.poll()
        poller.register(channel.fileno(), select.POLLIN)
        ended = 0.0
        while True:
            while channel.recv_ready():
                self._stdout.add(channel.recv(CHUNK))
            while channel.recv_stderr_ready():
                self._hear(channel.recv_stderr(CHUNK))
            now = time.monotonic()
            if channel.closed or channel.eof_received:
                if channel.recv_ready() or channel.recv_stderr_ready():
                    continue
                break
            if channel.exit_status_ready():
                ended = ended or now
                if now - ended > LINGER_SECONDS:
                    break
            if now >= deadline:
                return None
            poller.poll(max(min(POLL_SECONDS, deadline - now), 0.001) * 1000)
        if not channel.status_event.wait(max(deadline - time.monotonic(), 0.1)):
            return None
        return channel.exit_status if channel.exit_status >= 0 else None

    def _hear(self, data: bytes) -> None:
        """Standard error: sudo's until the command passed, then the command's."""
        if self._before is None or self._become is None:
            self._stderr.add(data)
            return
        self._before += data
        said, passed, rest = self._before.partition(self._become.passed.encode() + b"\n")
        if passed:
            self._before = None
            self._may_write.set()
            self._stderr.add(rest)
            return
        asked = said.count(self._become.ask.encode())
        if asked > self._asked:
            self._asked = asked
            if asked == 1:
                self._channel.sendall(self._become.password.encode() + b"\n")
            else:  # the password was wrong, and there is no other: sudo shall not ask on
                self._channel.shutdown_write()


class Lines:
    """Collects output, and tells each whole line."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line = on_line
        self._parts: list[bytes] = []
        self._open = b""

    def add(self, data: bytes) -> None:
        """More output."""
        self._parts.append(data)
        if self._on_line is None:
            return
        *lines, self._open = (self._open + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace").rstrip("\r"))

    def end(self) -> bytes:
        """All of it; a last line without an end is told."""
        if self._on_line is not None and self._open:
            self._on_line(self._open.decode(errors="replace"))
            self._open = b""
        return b"".join(self._parts)


def chunks(stdin: bytes | Path) -> Iterator[bytes]:
    """Input in pieces of a size that goes well through a channel."""
    if isinstance(stdin, Path):
        with stdin.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
        return
    for start in range(0, len(stdin), CHUNK):
        yield stdin[start : start + CHUNK]
