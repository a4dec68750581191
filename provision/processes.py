"""Processes by pid, told apart from later ones that got the same number.

A pid alone is no identity: the process may be gone and its number taken. A process is therefore looked at and
signalled through a pidfd, and recognized by a mark in its environment.
"""

from __future__ import annotations

import os
import select
import signal
import time


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie that nobody has reaped yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def has_mark(pid: int, mark: str) -> bool:
    """Whether the process was started with `mark` (`NAME=value`) in its environment."""
    return mark in _environment(pid)


def has_mark_prefix(pid: int, prefix: str) -> bool:
    """Whether some variable of the process's environment begins with `prefix` (`NAME=val`)."""
    return any(variable.startswith(prefix) for variable in _environment(pid))


def is_in_own_pid_namespace(pid: int) -> bool:
    """Whether the process is in this process's own pid namespace, and not in that of a container or a machine in it
    (man page pid_namespaces(7)). False if it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _environment(pid: int) -> list[str]:
    try:
        return _read(pid, "environ").split("\0")
    except PermissionError:  # somebody else's process
        return []


def uptime(pid: int) -> float:
    """Seconds that the process has been running; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def end(pid: int, *, timeout: float, mark: str = "") -> bool:
    """End a process that need not be a child: SIGTERM, after `timeout` seconds SIGKILL; True once it is gone.

    With a `mark`, only a process that has it; any other is left alone, and that counts as gone.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # The mark is read after the pidfd was opened: it is this very process or one that is gone already.
        if not is_alive(pid) or (mark and not has_mark(pid, mark)):
            return True
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return True
            if _ended(descriptor, pid, patience):
                return True
        return False
    finally:
        os.close(descriptor)


def wait_gone(pid: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds for a process to end (a zombie has ended)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return _ended(descriptor, pid, timeout)
    finally:
        os.close(descriptor)


def _ended(descriptor: int, pid: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000)) or not is_alive(pid)


def all_pids() -> list[int]:
    """Every process of this pid namespace and of those within it (containers, nspawn machines)."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: int) -> str:
    """The process's arguments, separated by NUL; empty for a kernel thread, a zombie, or none at all."""
    return _read(pid, "cmdline")


def cgroups(pid: int) -> str:
    """The text of /proc/<pid>/cgroup; empty if there is no such process."""
    return _read(pid, "cgroup")


def _read(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(root: int) -> set[int]:
    """The process and everything below it in the tree of processes."""
    parents = {pid: _parent(pid) for pid in all_pids()}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _parent(pid: int) -> int:
    text = _read(pid, "stat")
    return int(text.rpartition(")")[2].split()[1]) if text else 0
