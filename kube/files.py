"""Files that must be whole or absent: keys, certificates, kubeconfigs, state.

A file is written beside its place under another name, synced, and moved over: a reader sees the old content or the
new one, never half, and a crash leaves one of the two. A secret is created with its final mode, so there is no moment
in which others can read it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

SECRET = 0o600
PUBLIC = 0o644


def write_atomic(path: Path | str, data: bytes, *, mode: int = PUBLIC) -> None:
    """Write a whole file in one step, with exactly these permissions; missing folders are made.

    A symbolic link is followed: its target is replaced. OSError as from open().
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def write_secret(path: Path | str, data: bytes) -> None:
    """Write a file that only its owner can read (0600), in one step."""
    write_atomic(path, data, mode=SECRET)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
