"""Container images made on the spot: a docker-archive tar that `docker load` and `ctr image import` both take.

A machine without an image registry still needs images: the pause container of every pod, the example application,
whatever a test runs. They are small: a static binary (Debian's busybox-static serves as a whole userland), a few
files and a few lines of configuration. This module writes such an image with nothing but `tarfile` and `json`.

The archive depends on its content alone: entries are sorted, times are zero, owners are root unless said otherwise.
The same input gives the same image ID on every machine, so "is it loaded already?" is one comparison with `image_id`.

The format is Docker's image specification v1.2: `manifest.json` names the configuration and the one layer; the
image's ID is the SHA-256 of the configuration, which itself names the layer by digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath

from kube.errors import KtoolError

BUSYBOX_PATHS = (Path("/usr/bin/busybox"), Path("/bin/busybox"))

# The kernel's name of the machine -> Go's, which images carry.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_EPOCH = "1970-01-01T00:00:00Z"
_PT_INTERP = 3


class EntryType(Enum):
    """What an entry of the image's file system is."""

    FILE = tarfile.REGTYPE
    DIRECTORY = tarfile.DIRTYPE
    SYMLINK = tarfile.SYMTYPE


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link of an image; `path` is relative to the image's root."""

    path: str
    type: EntryType = EntryType.FILE
    data: bytes = field(default=b"", repr=False)
    mode: int = 0o644
    target: str = ""
    uid: int = 0
    gid: int = 0


def file(path: str, data: bytes, *, mode: int = 0o644) -> Entry:
    """A regular file with these bytes."""
    return Entry(path, EntryType.FILE, data, mode)


def directory(path: str, *, mode: int = 0o755) -> Entry:
    """An empty directory; the parents of other entries need none, they are made on their own."""
    return Entry(path, EntryType.DIRECTORY, mode=mode)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link at `path` that points to `target`."""
    return Entry(path, EntryType.SYMLINK, mode=0o777, target=target)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Everything that an image is made from.

    `references` are the names it gets (`name:tag`). `entrypoint`, `command`, `env` (pairs in order), `working_dir`,
    `user`, `exposed_ports` (`"8080/tcp"`), `labels` and `stop_signal` are the image's configuration as in a
    Dockerfile. `architecture` is Go's name; this machine's when empty.
    """

    references: tuple[str, ...]
    entries: tuple[Entry, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    architecture: str = ""


def image_id(source: ImageSource) -> str:
    """The ID (`sha256:...`) that an engine gives to this image when it loads it."""
    return "sha256:" + _sha256(_configuration(source, _layer(source.entries)))


def archive(source: ImageSource) -> bytes:
    """The image as the bytes of a docker-archive tar, equal for equal sources."""
    layer = _layer(source.entries)
    configuration = _configuration(source, layer)
    configuration_name = f"{_sha256(configuration)}.json"
    layer_name = f"{_sha256(layer)}/layer.tar"
    manifest = [{"Config": configuration_name, "RepoTags": list(source.references), "Layers": [layer_name]}]
    return _tar(
        (
            file(configuration_name, configuration),
            file(layer_name, layer),
            file("manifest.json", _json(manifest)),
        )
    )


def write(source: ImageSource, path: Path) -> None:
    """Write the archive to `path`, complete or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(archive(source))
    os.replace(unfinished, path)


def architecture(machine: str = "") -> str:
    """Go's name of a machine type (`uname -m`; this machine's when empty): `x86_64` -> `amd64`."""
    machine = machine or platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def find_busybox() -> Path:
    """Where this machine's statically linked busybox is.

    Raises KtoolError when there is none: a dynamically linked one cannot run in an image that has no libc.
    """
    for path in BUSYBOX_PATHS:
        if path.is_file() and is_static(path.read_bytes()):
            return path
    found = next((f"{path}, dynamically linked" for path in BUSYBOX_PATHS if path.is_file()), "none")
    raise KtoolError(
        "no statically linked busybox to build images from",
        found=found,
        wanted=f"a static binary at {' or '.join(map(str, BUSYBOX_PATHS))}",
        mend="apt-get install busybox-static",
    )


def busybox_applets(busybox: Path) -> tuple[str, ...]:
    """The names of the commands that this busybox contains, without `busybox` itself."""
    listing = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True, timeout=10)
    return tuple(sorted(set(listing.stdout.split()) - {"busybox"}))


def busybox_root(busybox: Path | None = None, *, applets: Iterable[str] | None = None) -> tuple[Entry, ...]:
    """A small root file system: busybox, a symbolic link per applet, users root and nobody, the usual directories.

    `busybox` is the static binary (`find_busybox` when None), `applets` the commands wanted (all when None).
    """
    binary = busybox or find_busybox()
    names = busybox_applets(binary) if applets is None else tuple(applets)
    return (
        file("bin/busybox", binary.read_bytes(), mode=0o755),
        *(symlink(f"bin/{name}", "/bin/busybox") for name in names),
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        file("etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
        *(directory(path) for path in ("dev", "proc", "root", "sys", "var")),
        directory("tmp", mode=0o1777),
    )


def is_static(binary: bytes) -> bool:
    """Whether an ELF binary asks for no dynamic loader (has no PT_INTERP program header)."""
    if binary[:4] != b"\x7fELF":
        return False
    wide = binary[4] == 2
    order = "<" if binary[5] == 1 else ">"
    offset = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", binary, 32 if wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", binary, 54 if wide else 42)
    types = (struct.unpack_from(f"{order}I", binary, offset + index * size)[0] for index in range(count))
    return _PT_INTERP not in types


def _configuration(source: ImageSource, layer: bytes) -> bytes:
    container = {
        "Cmd": list(source.command),
        "Entrypoint": list(source.entrypoint),
        "Env": [f"{name}={value}" for name, value in source.env] or ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
        "ExposedPorts": {port: {} for port in source.exposed_ports},
        "Labels": dict(source.labels),
        "StopSignal": source.stop_signal,
        "User": source.user,
        "WorkingDir": source.working_dir,
    }
    return _json(
        {
            "architecture": source.architecture or architecture(),
            "config": {name: value for name, value in container.items() if value},
            "created": _EPOCH,
            "history": [{"created": _EPOCH, "created_by": "ktool"}],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + _sha256(layer)]},
        }
    )


def _layer(entries: tuple[Entry, ...]) -> bytes:
    by_path: dict[str, Entry] = {}
    for entry in entries:
        path = str(PurePosixPath(entry.path.lstrip("/")))
        if path in by_path:
            raise ValueError(f"two entries of the image have the path {path}")
        by_path[path] = entry
    parents = {str(parent) for path in by_path for parent in PurePosixPath(path).parents} - {"."}
    for parent in parents:
        by_path.setdefault(parent, directory(parent))
    return _tar(by_path[path] for path in sorted(by_path))


def _tar(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry in entries:
            member = tarfile.TarInfo(entry.path.lstrip("/"))  # its times and owners are zero unless set
            member.type = entry.type.value
            member.mode = entry.mode
            member.linkname = entry.target
            member.uid, member.gid = entry.uid, entry.gid
            member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
