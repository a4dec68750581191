"""How a machine is doing, seen from the host: its first process, its SSH server, its console."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from provision import processes

POLL_SECONDS = 0.05
# The signal by which systemd powers off (systemd(1): SIGRTMIN+3), as the C library counts.
_POWER_OFF = signal.SIGRTMIN + 3


def first_process(nspawn: int) -> int | None:
    """The child of systemd-nspawn that is pid 1 of its own, once it has become the machine's init."""
    try:
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
    except OSError:
        return None
    for child in children:
        try:
            name = Path(f"/proc/{child}/comm").read_text().strip()
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue
        inner = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if len(inner) > 1 and inner[-1] == "1" and name in ("systemd", "init"):
            return int(child)
    return None


def hears(pid: int) -> bool:
    """Whether a machine's systemd has come so far that it heeds the signal to power off; earlier that would be lost.

    True for one that has ended.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    masks = [line.split()[1] for line in status.splitlines() if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(int(mask, 16) >> (_POWER_OFF - 1) & 1 for mask in masks) or not processes.is_alive(pid)


def answers_ssh(address: str, port: int, *, timeout: float) -> bool:
    """Whether an SSH server says its name there, within `timeout` seconds."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def plain(text: str) -> str:
    """A console's text without control characters and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]", "", text)


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
