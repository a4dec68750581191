"""One master per store: an advisory lock beside the database file.

A file of its own, because closing any descriptor of the database file would drop the locks that SQLite holds on it.
The kernel frees the lock when its holder ends, however it ends, so there is no stale lock to clean up.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from control.store.errors import StoreInUseError


class StoreLock:
    """The lock of the store at `path`, held from construction until `release`.

    Raises `StoreInUseError`, with the holder's pid, if it is taken.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 20, 0).strip()
            os.close(self._fd)
            raise StoreInUseError(str(path), int(holder) if holder.isdigit() else 0) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)
