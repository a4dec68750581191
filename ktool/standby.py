"""`ktool` in a process that has everything loaded, for commands that would otherwise load it themselves.

    bin/ktool of a node runtime → standby_client.py → socket → fork → ktool's own main

On an emulated machine `ktool up` needs ten seconds until all of its modules are imported. Where a machine goes on from
kept memory, this process is part of that memory (`ktool-warm.service`): each command is a child of it, with the
caller's arguments, environment, folder and files, and with random numbers of its own (see kube.late_arguments). After
the first ones it ends; commands load themselves again then.

Protocol (unix(7), SOCK_SEQPACKET): the client sends one message, fields separated by NUL: folder, umask, number of
arguments, arguments, variables; with it its standard input, output and error. It is sent the command's pid, and says
`begin` when it is ready to pass on signals; then it is sent the exit status. Only root may connect.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ktool.standby_client import MESSAGE_BYTES

# What `up` and `join` import, by themselves or while they wait.
MODULES = (
    "ktool.cli",
    "ktool.commands.join",
    "ktool.commands.token",
    "ktool.commands.up",
    "ktool.output.report",
    "provision.local_cluster.enrolment",
    "provision.local_cluster.own_node",
    "provision.local_cluster.preparation",
    "provision.local_cluster.start",
)
# After its first command: those that make a node follow within a minute or two.
SERVES_SECONDS = 300.0
# How often it looks, while nobody asks, whether its runtime is still the machine's.
LOOKS_SECONDS = 60.0


def main(path: Path) -> None:
    """Load everything, then serve at the socket `path`: until the first command for as long as it takes, then for
    some minutes; no longer than this runtime is the machine's."""
    import kube.quick_aiohttp  # noqa: F401 (before others import aiohttp)

    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        os.umask(0o077)
        listener.bind(str(path))
        listener.listen()
        try:
            _serve(listener)
        finally:
            path.unlink(missing_ok=True)


def _serve(listener: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how they ended
    runtime = _runtime()
    end = float("inf")
    while (left := end - time.monotonic()) > 0:
        listener.settimeout(min(left, LOOKS_SECONDS))
        try:
            client, _ = listener.accept()
        except TimeoutError:
            if _runtime() != runtime:
                return
            continue
        with client:
            client.settimeout(SERVES_SECONDS)
            if os.fork() == 0:
                _child(listener, client)
        end = min(end, time.monotonic() + SERVES_SECONDS)


def _runtime() -> Path:
    """Where our code comes from, by links: another one may have come in its place, whose command does not ask us."""
    return Path(sys.prefix).resolve()


def _child(listener: socket.socket, client: socket.socket) -> NoReturn:
    """Run the command and tell the client its status. Whatever happens, this process never goes on as the one that it
    was forked from."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        status = _command(client)
    except BaseException:  # noqa: BLE001 (as at the end of any program)
        traceback.print_exc()
    finally:
        with suppress(OSError):
            client.send(str(status).encode())
        os._exit(status)


def _command(client: socket.socket) -> int:
    """Run the command; its status."""
    message, files, _, _ = socket.recv_fds(client, MESSAGE_BYTES, 3)
    try:
        client.send(str(os.getpid()).encode())
        begin = client.recv(64)
    except OSError:
        begin = b""
    if not begin:  # the client was killed
        return 1
    _become(message.decode(errors="surrogateescape").split("\0"), files)
    _end_with(client)
    status = _run()
    fcntl.fcntl(client, fcntl.F_SETFL, 0)
    return status


def _end_with(client: socket.socket) -> None:
    """A client that is killed takes its command with it (fcntl(2): F_SETSIG), as if they were one process."""
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(client, fcntl.F_SETFL, os.O_ASYNC)


def _become(fields: list[str], files: list[int]) -> None:
    """Take the caller's place: its folder, arguments, environment and files."""
    folder, umask, count, *rest = fields
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # What these were made for was another's; a terminal wants its lines at once.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, buffering=1 if os.isatty(1) else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(folder)
    os.umask(int(umask))
    sys.argv = ["ktool", *rest[: int(count)]]
    os.environ.clear()
    for variable in rest[int(count) :]:
        name, _, value = variable.partition("=")
        os.environ[name] = value


def _run() -> int:
    from ktool.__main__ import main

    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    main(Path(sys.argv[1]))
