"""A backup of a cluster: one file, for its owner alone, with all that brings the cluster back on a bare machine.

    backup.json     what this is: when, of which machine and cluster, how many objects
    pki/...         the keys and certificates that all masters share; the others are made anew from them
    objects.jsonl   the objects, one in each line, as the API server stores them

A gzipped tar, for people who look for one object in it:
`tar -xzOf FILE objects.jsonl | jq 'select(.key == "/registry/deployments.apps/web/web").value'`.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from kube import pki
from kube.errors import KtoolError
from kube.files import SECRET
from kube.join import CONTROL_PLANE_FILES

FORMAT = 1
HEADER = "backup.json"
OBJECTS = "objects.jsonl"
PKI = "pki/"
# Without these a restored cluster would be another one: nodes would not trust it, or pods' tokens would not count.
REQUIRED = ("ca.crt", "ca.key", "sa.key")
_HEADER_BYTES = 1 << 20


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. `made` is the time (RFC 3339), `store` the engine that it was taken from, `ca` the pin of
    the cluster's CA, `objects` and `revision` what the store had."""

    format: int = FORMAT
    made: str
    ktool: str
    node: str
    store: str
    ca: str
    objects: int
    revision: int


@dataclass(frozen=True, slots=True)
class Backup:
    """An open backup. `files` are those of `pki/` by name; `objects` gives the lines, once."""

    header: Header
    files: dict[str, bytes]
    objects: Iterator[bytes]

    def __repr__(self) -> str:  # the cluster's keys must not get into a log by accident
        return f"Backup({self.header!r}, files={sorted(self.files)})"


def shared_files(folder: Path) -> dict[str, bytes]:
    """The files below a master's `pki` that a backup has. KtoolError if one is missing that all have."""
    found = {}
    for name in CONTROL_PLANE_FILES:
        try:
            found[name] = (folder / name).read_bytes()
        except FileNotFoundError as error:
            if name in REQUIRED:
                raise KtoolError(
                    "there is no cluster here to back up",
                    found=f"no {folder / name}",
                    wanted="a machine that runs a master",
                    mend="run it as root on a master; --data-dir names its data directory",
                ) from error
        except OSError as error:
            raise KtoolError(
                "the cluster's keys cannot be read",
                found=f"{folder / name}: {error.strerror or error}",
                wanted="the right to read them",
                mend="run it as root",
            ) from error
    return found


def write(target: IO[bytes], header: Header, files: dict[str, bytes], objects: IO[bytes]) -> None:
    """Write a backup; `objects` is read from its beginning to its end."""
    size = objects.seek(0, os.SEEK_END)
    objects.seek(0)
    with (
        gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        _add(tar, HEADER, msgspec.json.format(msgspec.json.encode(header)))
        for name, content in files.items():
            _add(tar, PKI + name, content)
        tar.addfile(_entry(OBJECTS, size), objects)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_entry(name, len(content)), io.BytesIO(content))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, SECRET
    return entry


@contextmanager
def read(source: IO[bytes], *, name: str) -> Iterator[Backup]:
    """A backup, from its beginning to its end; `name` is what errors call it. KtoolError, also while objects are read,
    if it is none, of another format, or not whole."""
    with gzip.GzipFile(fileobj=source, mode="rb") as plain, ExitStack() as stack:
        with _whole(name):
            tar = stack.enter_context(tarfile.open(fileobj=plain, mode="r|"))
            header, files, entry = _opened(tar)
        yield Backup(header, files, _lines(tar, entry, plain, header, name))


def check(path: Path) -> Backup:
    """A backup that was read to its end: nothing of it is missing or damaged. KtoolError otherwise."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise KtoolError(
            "the backup cannot be read",
            found=f"{path}: {error.strerror or error}",
            wanted="a file that `ktool backup` made",
        ) from error
    with source, read(source, name=str(path)) as backup:
        for _ in backup.objects:
            pass
        return backup


@contextmanager
def _whole(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error, msgspec.MsgspecError) as error:
        raise KtoolError(
            f"{name} is not a whole backup",
            found=str(error) or type(error).__name__,
            wanted="a file that `ktool backup` made",
            mend="take another one: a copy that was interrupted cannot be mended",
        ) from error


def _opened(tar: tarfile.TarFile) -> tuple[Header, dict[str, bytes], tarfile.TarInfo]:
    entry = tar.next()
    if entry is None or entry.name != HEADER or entry.size > _HEADER_BYTES:
        raise tarfile.ReadError(f"it begins with {entry.name if entry else 'nothing'}, not with {HEADER}")
    raw = _content(tar, entry)
    there = msgspec.json.decode(raw, type=dict[str, object]).get("format")
    if there != FORMAT:
        raise KtoolError(
            "this backup was made by another version of ktool",
            found=f"format {there}",
            wanted=f"format {FORMAT}",
            mend="restore it with the version that made it",
        )
    header = msgspec.json.decode(raw, type=Header)
    files: dict[str, bytes] = {}
    while (entry := tar.next()) is not None and entry.name != OBJECTS:
        name = entry.name.removeprefix(PKI)
        if name not in CONTROL_PLANE_FILES or entry.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"there is {entry.name} in it")
        files[name] = _content(tar, entry)
    missing = sorted({*REQUIRED} - files.keys())
    if entry is None or missing:
        raise tarfile.ReadError(f"there is no {', '.join(missing) or OBJECTS} in it")
    if (pin := pki.ca_pin(pki.parse_cert(files["ca.crt"], source=PKI + "ca.crt"))) != header.ca:
        raise tarfile.ReadError(f"its CA is {pin}, not {header.ca}")
    return header, files, entry


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    if file is None:
        raise tarfile.ReadError(f"{entry.name} is no file")
    return file.read()


def _lines(
    tar: tarfile.TarFile, entry: tarfile.TarInfo, plain: gzip.GzipFile, header: Header, name: str
) -> Iterator[bytes]:
    count = 0
    with _whole(name):
        file = tar.extractfile(entry)
        if file is None:
            raise tarfile.ReadError(f"{entry.name} is no file")
        for line in file:
            count += 1
            yield line
        while plain.read(1 << 16):
            pass  # the checksum is at the end
        if count != header.objects:
            raise tarfile.ReadError(f"it has {count} objects, not {header.objects}")
