"""subPath: a part of a volume, mounted by itself (Kubernetes: "Using subPath").

The problem: containers write their volumes, so they can put a symbolic link to the host's /etc where the next
container's subPath leads, also in the moment between our check and the engine's mount.

The answer: resolve links once and check that the result is inside; then walk there from the volume's root without
following any link, and bind what was opened (not its path) to a place of our own. The engine gets that place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agent.kubelet.expansion import expand, references
from agent.kubelet.start_error import ConfigError
from agent.kubelet.volumes import mount_table


def expanded(expression: str, variables: Mapping[str, str]) -> str:
    """A `subPathExpr` with its `$(NAME)`s replaced; ConfigError if one has no value."""
    missing = [name for name in references(expression) if name not in variables]
    if missing:
        raise ConfigError(f"missing value for {missing[0]!r} in subPathExpr {expression!r}")
    return expand(expression, variables)


def resolve(root: Path, sub_path: str, target: Path | None) -> Path:
    """A path of the host that leads to `sub_path` in the volume at `root`; missing folders are made.

    It is bound to `target`, outside of any volume; None: nothing can be mounted, and the path itself is given.
    ConfigError if the path leads outside of the volume; OSError.
    """
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise ConfigError(f"subPath {sub_path!r} must be relative and must not contain '..'")
    base = Path(os.path.realpath(root))
    inside = Path(os.path.realpath(base / sub_path))
    if inside != base and base not in inside.parents:
        raise ConfigError(f"subPath {sub_path!r} leads outside of its volume")
    try:
        descriptor = _open(base, inside.relative_to(base).parts)
    except OSError as error:
        raise ConfigError(f"failed to prepare subPath {sub_path!r}: {error.strerror}") from error
    try:
        if target is None:
            return inside
        _prepare(target, descriptor)
        mount_table.bind(descriptor, target)
    finally:
        os.close(descriptor)
    return target


def _open(base: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of base/parts..., reached without following links."""
    descriptor = os.open(base, os.O_PATH | os.O_CLOEXEC)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        for part in parts:
            try:
                deeper = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            except FileNotFoundError:
                deeper = _make(part, mode, descriptor)
            os.close(descriptor)
            descriptor = deeper
            if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                raise OSError(40, "a symbolic link took its place", part)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make(name: str, mode: int, descriptor: int) -> int:
    """Make a folder in an open one, as open to its users as the volume itself; a descriptor of it."""
    os.mkdir(name, mode=mode, dir_fd=descriptor)
    made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        # The umask took bits away, and the group's inheritance is not asked of mkdir.
        os.fchmod(made, mode | (os.fstat(made).st_mode & stat.S_ISGID))
    except BaseException:
        os.close(made)
        raise
    return made


def _prepare(target: Path, descriptor: int) -> None:
    """An empty folder or file to mount on; what an earlier attempt of the container had mounted there is taken off."""
    target.parent.mkdir(parents=True, exist_ok=True)
    while mount_table.is_mounted(target):
        mount_table.unmount(target)
    folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    if target.exists() and target.is_dir() != folder:
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink()
    if folder:
        target.mkdir(exist_ok=True)
    else:
        target.touch()
