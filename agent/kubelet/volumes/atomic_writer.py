"""Files of a volume that change all at once (Kubernetes: AtomicWriter).

The problem: a program reads `tls.crt` and `tls.key` one after the other while we replace both; a program that watches
a directory wants to be told once, when everything is new.

The answer: the files live in a folder with a time for a name. `..data` is a symbolic link to that folder, and what
the user sees are links through it. A change is a new folder, complete, and then one rename that moves `..data`:

    app.conf -> ..data/app.conf
    ..data   -> ..2026_01_31_12_00_00.1234567890/
    ..2026_01_31_12_00_00.1234567890/app.conf

Otherwise a reader would see a new certificate with an old key, or half a file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from pathlib import Path

from agent.kubelet.volumes.payload import File, Payload

DATA = "..data"
_NEW_DATA = "..data_tmp"
_DIRECTORY_MODE = 0o755
# What a group that owns the volume may do: read files, and enter folders; new files in a folder stay the group's.
_GROUP_READ = 0o440
_GROUP_ENTER = 0o110 | stat.S_ISGID


def write(root: Path, payload: Payload, *, group: int | None = None) -> bool:
    """Make the volume at `root` (an existing folder) have exactly these files; whether anything had to change.

    `group` is the pod's fsGroup: all files and folders then belong to it and can be read by it.
    Raises OSError, and ValueError if a path is both a file and a folder; the volume is then as it was.
    """
    _check(payload)
    wanted = {path: _with_group(file, group) for path, file in payload.items()}
    old = _current(root)
    if old is not None and _read(root / old) == {path: (f.data, f.mode) for path, f in wanted.items()}:
        _link(root, wanted)
        _sweep(root, old)
        return False
    new = f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{secrets.randbelow(10**10):010}"
    try:
        _write_folder(root / new, wanted, group)
        beside = root / _NEW_DATA
        beside.unlink(missing_ok=True)
        beside.symlink_to(new)
        os.replace(beside, root / DATA)
    except BaseException:
        shutil.rmtree(root / new, ignore_errors=True)
        raise
    _link(root, wanted)
    _sweep(root, new)
    return True


def _check(payload: Payload) -> None:
    for path in payload:
        parents = path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join(parents[:depth])
            if parent in payload:
                raise ValueError(f"path {parent!r} is a file, and a folder for {path!r}")


def _with_group(file: File, group: int | None) -> File:
    return file if group is None else File(file.data, file.mode | _GROUP_READ, file.owner)


def _current(root: Path) -> str | None:
    """The folder that `..data` points to, if it is one of ours and exists."""
    try:
        target = os.readlink(root / DATA)
    except OSError:
        return None
    return target if "/" not in target and target.startswith("..") and (root / target).is_dir() else None


def _read(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file()
    }


def _write_folder(folder: Path, payload: Payload, group: int | None) -> None:
    _make_directory(folder, group)
    for path, file in payload.items():
        target = folder
        *parents, name = path.split("/")
        for parent in parents:
            target = target / parent
            if not target.is_dir():
                _make_directory(target, group)
        descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode & 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.data)
            if group is not None or file.owner is not None:
                os.fchown(opened.fileno(), -1 if file.owner is None else file.owner, -1 if group is None else group)
            # After the owner: changing that may take bits away, as the umask did.
            os.fchmod(opened.fileno(), file.mode)


def _make_directory(folder: Path, group: int | None) -> None:
    folder.mkdir()
    mode = _DIRECTORY_MODE
    if group is not None:
        os.chown(folder, -1, group)
        mode |= _GROUP_ENTER
    folder.chmod(mode)


def _link(root: Path, payload: Payload) -> None:
    """What the user sees: a link for each name at the top, and none for names that are gone."""
    names = {path.split("/")[0] for path in payload}
    for name in names:
        link = root / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for entry in root.iterdir():
        if not entry.name.startswith("..") and entry.name not in names and entry.is_symlink():
            entry.unlink()


def _sweep(root: Path, current: str) -> None:
    """Remove folders of earlier times, the halves that a crash left included."""
    for entry in root.iterdir():
        if not entry.name.startswith("..") or entry.name in (DATA, current):
            continue
        if entry.is_symlink():
            entry.unlink()
        else:
            shutil.rmtree(entry)
