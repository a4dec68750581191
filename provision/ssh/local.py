"""This machine as if it were reached over SSH: the same commands, files and forwards, without a connection."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from provision.ssh import errors
from provision.ssh.commands import Become, Commands, Output
from provision.ssh.endpoint import Endpoint
from provision.ssh.execution import Execution
from provision.ssh.shell import OnLine

CANNOT_START = 127
_WRITE_WAIT_MILLISECONDS = 200


class LocalConnection(Commands):
    """A `Shell` on this machine; with the attributes of a `Connection`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.endpoint.name

    @property
    def host_key(self) -> str:
        """There is none."""
        return ""

    @property
    def local_address(self) -> str:
        """This side's address, which is the other side's as well."""
        return self.endpoint.address

    @property
    def active(self) -> bool:
        """Always."""
        return True

    def open_channel(self, host: str, port: int, *, timeout: float = 30.0) -> socket.socket:
        """A connection to `host:port`."""
        try:
            return socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            raise errors.ForwardRefused(
                self.name,
                f"cannot connect to {host}:{port}",
                found=error.strerror or str(error),
                wanted=f"a listener at {host}:{port}",
                mend=f"ss -ltn 'sport = {port}'",
            ) from error

    def forward_local(self, remote_host: str, remote_port: int, *, local_port: int = 0) -> tuple[str, int]:
        """See `Shell.forward_local`: here is there."""
        return remote_host, remote_port

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> LocalConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _become(self) -> Become | None:
        if os.geteuid() == 0 or not self.endpoint.become:
            return None
        return Become.new(self.endpoint.become_password)

    def _execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | Path,
        timeout: float,
        become: Become | None,
        on_line: OnLine | None,
    ) -> Output:
        try:
            process = _Process(argv)
        except OSError as error:
            return Output(CANNOT_START, b"", f"{argv[0]}: {error.strerror}\n".encode(), became=False)
        return Execution(process, become=become, on_line=on_line).run(stdin, timeout=timeout)


class _Process:
    """A process with the face of a paramiko Channel (execution.Channel)."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._stdin.fileno(), False)
        self._writing = threading.Lock()
        self._open = {self._stdout.fileno(), self._stderr.fileno()}
        self._poll = select.epoll()
        for descriptor in self._open:
            self._poll.register(descriptor, select.EPOLLIN)

    closed = False

    @property
    def eof_received(self) -> bool:
        return not self._open

    @property
    def exit_status(self) -> int:
        return -1 if self._process.returncode is None else self._process.returncode

    @property
    def status_event(self) -> _Process:
        return self

    def wait(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def fileno(self) -> int:
        return self._poll.fileno()

    def recv_ready(self) -> bool:
        return self._ready(self._stdout.fileno())

    def recv(self, size: int) -> bytes:
        return self._read(self._stdout.fileno(), size)

    def recv_stderr_ready(self) -> bool:
        return self._ready(self._stderr.fileno())

    def recv_stderr(self, size: int) -> bytes:
        return self._read(self._stderr.fileno(), size)

    def exit_status_ready(self) -> bool:
        return self._process.poll() is not None

    def sendall(self, data: bytes) -> None:
        """Raises OSError when the process reads no more, or the channel was closed meanwhile."""
        view = memoryview(data)
        while view:
            view = view[self._write_some(view) :]

    def shutdown_write(self) -> None:
        with self._writing:
            self._stdin.close()

    def _write_some(self, data: memoryview) -> int:
        """What the pipe takes now; 0 after a short wait for a process that does not read."""
        # Under the lock, so that close() can't give the descriptor's number to another file between look and write.
        with self._writing:
            if self._stdin.closed:
                raise BrokenPipeError(errno.EPIPE, "the channel was closed")
            descriptor = self._stdin.fileno()
            with contextlib.suppress(BlockingIOError):
                return os.write(descriptor, data)
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        poller.poll(_WRITE_WAIT_MILLISECONDS)
        return 0

    def close(self) -> None:
        """Ends the process if it still runs; a child that it left behind lives on."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
        self._poll.close()
        self.shutdown_write()
        for pipe in (self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def _ready(self, descriptor: int) -> bool:
        if descriptor not in self._open:
            return False
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(0))

    def _read(self, descriptor: int, size: int) -> bytes:
        data = os.read(descriptor, size)
        if not data:
            self._open.discard(descriptor)
            self._poll.unregister(descriptor)
        return data
