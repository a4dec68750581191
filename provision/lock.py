"""One command at a time that changes a data directory, or a lab."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube.errors import KtoolError

LOCKS = Path("/run/lock")


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Hold the lock of a data directory while the block runs. KtoolError if somebody else holds it.

    The lock is a file outside of the directory, for `down` removes the directory; the kernel frees it if we die.
    """
    path = LOCKS / f"ktool{str(data_dir).replace('/', '-')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of the locked file, which is the one at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise KtoolError(
                "another ktool command is at work here",
                found=f"a lock on {path}",
                wanted="one at a time",
                mend="wait until it has finished",
            ) from error
        # Its holder removed the file after we had opened it: whoever comes next makes, and locks, a new one.
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
