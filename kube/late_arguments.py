"""Programs that are started, and loaded, before anybody knows what they are to do.

A service's command line names a file (`@FILE`, argparse: "fromfile_prefix_chars") with the rest of its arguments, one a
line. Where the file is not there yet, the program loads its modules, which takes an emulated machine ten seconds, and
waits; with the file it goes on as if it had just been started.

Meanwhile the machine may have become another one: its memory was kept, and goes on in several machines at once. What a
process has drawn of random numbers, it has in all of them then. So it goes on as a new process, in which OpenSSL
("RAND": fork safety) and Python's `random` begin anew, and tells systemd so (sd_notify(3): MAINPID).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PREFIX = "@"
POLL_SECONDS = 0.1
# Different in each machine (machine-id(5)).
MACHINE_ID = Path("/etc/machine-id")
# How long a service manager may take to read what it is told.
BARRIER_SECONDS = 10.0

log = logging.getLogger(__name__)


def wait(arguments: Sequence[str], load: Callable[[], None]) -> None:
    """Return when the files that the arguments name are there. Where one is missing (in a folder that is there), `load`
    is called, once, and then `waiting_file` of it says that the program waits."""
    manager = os.environ.pop("NOTIFY_SOCKET", "")  # nothing that we start is the service
    named = [Path(text.removeprefix(PREFIX)) for text in arguments if text.startswith(PREFIX)]
    missing = [file for file in named if not file.exists() and file.parent.is_dir()]
    if not missing:
        return
    machine = _machine_id()
    for file in missing:
        waiting_file(file).unlink(missing_ok=True)  # of one that was killed
    load()
    log.info("loaded; waiting for %s", missing[0])
    for file in missing:
        waiting = waiting_file(file)
        waiting.touch()
        while not file.exists():
            time.sleep(POLL_SECONDS)
        waiting.unlink(missing_ok=True)
    if _machine_id() != machine:
        log.info("this machine was another one before: going on in a new process")
        _begin_anew(manager)


def waiting_file(file: Path) -> Path:
    """Is there while a program that is loaded waits for its arguments in `file`."""
    return file.with_name(file.name + ".waiting")


def _machine_id() -> str:
    try:
        return MACHINE_ID.read_text()
    except OSError:
        return ""


def _begin_anew(manager: str) -> None:
    """Go on in a child that the service manager takes for the service; without one that could, load once more.

    The child waits until the manager knows of it. Stopped before that, it would run on and nobody know: it ends.
    """
    if not manager:
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (our own)
    known, tell = os.pipe()
    if child := os.fork():
        try:
            _notify(manager, f"MAINPID={child}")
            os.write(tell, b"known")
        except OSError as error:
            log.error("the service manager cannot be told of a new process: %s", error)
            os._exit(1)
        os._exit(0)
    os.close(tell)
    if not os.read(known, 5):
        os._exit(1)
    os.close(known)


def _notify(address: str, state: str) -> None:
    """Tell the service manager (sd_notify(3)), and wait until it has read that (sd_notify_barrier)."""
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.connect(address)
        to.sendall(state.encode())
        read, closed_there = os.pipe()
        socket.send_fds(to, [b"BARRIER=1"], [closed_there])
    os.close(closed_there)
    select.select([read], [], [], BARRIER_SECONDS)
