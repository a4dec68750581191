"""One `up` or `down` at a time on a data directory."""

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
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KtoolError(
                "another `ktool up` or `ktool down` is at work here",
                found=f"a lock on {path}",
                wanted="one at a time",
                mend="wait until it has finished",
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
