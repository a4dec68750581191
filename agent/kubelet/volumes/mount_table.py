"""Mounting and unmounting: two system calls and the list of what is mounted.

Nothing is remembered: what must be unmounted is found in the kernel's own table, so that an agent which was killed
leaves nothing that its successor, or `reset`, would not find.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
from pathlib import Path

import psutil

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC = 2, 4, 8, 4096, 16384
_CAP_SYS_ADMIN = 21
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(target: Path, *, mode: int, size_bytes: int = 0, executable: bool = False) -> None:
    """Mount memory at `target`; `size_bytes` 0 for the kernel's own limit. It is kept out of swap where Linux can.

    Raises OSError (EPERM without privileges).
    """
    flags = _MS_NOSUID | _MS_NODEV | (0 if executable else _MS_NOEXEC)
    options = f"mode={mode:o}" + (f",size={size_bytes}" if size_bytes else "")
    try:
        _mount("tmpfs", target, "tmpfs", flags, f"{options},noswap")
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel before 6.4 does not know noswap
            raise
        _mount("tmpfs", target, "tmpfs", flags, options)


def bind(descriptor: int, target: Path) -> None:
    """Mount what an open descriptor stands for at `target`: whatever happens to its path meanwhile. OSError."""
    _mount(f"/proc/self/fd/{descriptor}", target, "", _MS_BIND | _MS_REC, "")


def unmount(target: Path) -> None:
    """Take the uppermost mount off `target`, now for new users and with the last one for old users. OSError."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        raise _error(target)


def may_mount() -> bool:
    """Whether this process may mount at all (CAP_SYS_ADMIN)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def is_mounted(target: Path) -> bool:
    """Whether something is mounted exactly there."""
    return os.fspath(target) in _mount_points()


def mounted_below(path: Path) -> list[Path]:
    """What is mounted at `path` or below it, the innermost and latest first."""
    base = os.fspath(path)
    found = [point for point in _mount_points() if point == base or point.startswith(f"{base}/")]
    order = sorted(enumerate(found), key=lambda numbered: (-numbered[1].count("/"), -numbered[0]))
    return [Path(point) for _, point in order]


def remove_tree(path: Path) -> None:
    """Unmount everything below `path`, then remove it; nothing if it is not there.

    Raises OSError, and removes nothing, if something stays mounted: what is mounted there is somebody's data.
    """
    path = path.parent.resolve() / path.name
    if path.is_symlink() or not path.exists():
        return
    for point in mounted_below(path):
        unmount(point)
    left = mounted_below(path)
    if left:
        raise OSError(errno.EBUSY, "still mounted", os.fspath(left[0]))
    shutil.rmtree(path)


def seen_by(engine_socket: Path) -> bool:
    """Whether the process that listens on a unix socket sees what is mounted here (it has our mount namespace).

    A Docker Engine in a mount namespace of its own would give containers the empty folder below a mount.
    """
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(os.fspath(engine_socket))
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", credentials)[0]
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return True  # it cannot be found out; an engine usually has the machine's own


def _mount_points() -> list[str]:
    return [partition.mountpoint for partition in psutil.disk_partitions(all=True)]


def _mount(source: str, target: Path, filesystem: str, flags: int, options: str) -> None:
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        filesystem.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if result != 0:
        raise _error(target)


def _error(target: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), os.fspath(target))
