"""Who uses what is in the cache: labs that were made from an entry, and processes that are at work with the cache.

A lab's provider notes the entries that its machines want. The note holds for as long as the lab's folder is there, so
what is used is known of labs whose folders are elsewhere, too (`$KTOOL_LABS`). A process that takes anything out of the
cache holds a shared lock on it until it ends; whoever removes entries holds it alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kube.errors import KtoolError
from kube.files import write_atomic

_LOCK = ".in-use"
_held: dict[Path, int] = {}
_holding = threading.Lock()


class _Note(msgspec.Struct, frozen=True):
    lab: str
    entries: tuple[str, ...]


def hold(cache: Path) -> None:
    """Let nobody remove entries while this process lives."""
    with _holding, contextlib.suppress(OSError):  # a cache of another user's, who has to look out for himself
        if cache not in _held:
            descriptor = os.open(cache / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _held[cache] = descriptor


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Have the cache for oneself while the block runs. KtoolError if another process uses it."""
    descriptor = os.open(cache / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KtoolError(
                "the cache of images is in use",
                found=f"another ktool is at work with {cache}",
                wanted="nobody who might want what is about to be removed",
                mend=f"run the same command again when it has ended (fuser -v {cache / _LOCK} shows it)",
            ) from error
        yield
    finally:
        os.close(descriptor)


def note(cache: Path, lab: Path, image: str, paths: Iterable[Path]) -> None:
    """Note that the lab with that folder has machines made from these files; in place of those that it had before for
    the same `image`, which an upgrade makes anew."""
    with contextlib.suppress(OSError):
        text = msgspec.json.encode(_Note(str(lab), tuple(sorted({str(path) for path in paths}))))
        name = hashlib.sha256(f"{lab}\n{image}".encode()).hexdigest()[:16]
        place = cache / "labs" / f"{name}.json"
        if not place.exists() or place.read_bytes() != text:
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(place, text)


def labs(cache: Path) -> dict[Path, list[Path]]:
    """The labs that are there, with the files that they want; notes of others are removed."""
    found: dict[Path, list[Path]] = {}
    for place in sorted((cache / "labs").glob("*.json")):
        with contextlib.suppress(msgspec.MsgspecError):
            kept = msgspec.json.decode(place.read_bytes(), type=_Note)
            if Path(kept.lab).is_dir():
                found.setdefault(Path(kept.lab), []).extend(map(Path, kept.entries))
            else:
                place.unlink()
    return found
