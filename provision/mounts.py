"""Mounts below a directory, and the removal of a directory that may have some.

A directory tree is only ever removed when nothing is mounted below it: a bind mount of somebody's data would
otherwise be emptied together with our own files.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from kube.errors import KtoolError
from provision.command import CommandFailed, Runner, run

logger = logging.getLogger(__name__)
_OCTAL = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}


def mount_points(mountinfo: str) -> list[str]:
    """Mount points in the text of /proc/<pid>/mountinfo, in the order of mounting."""
    found = []
    for line in mountinfo.splitlines():
        point = line.split(" ")[4]
        for code, character in _OCTAL.items():
            point = point.replace(code, character)
        found.append(point)
    return found


def below(path: Path, points: Iterable[str]) -> list[str]:
    """Those mount points that are `path` or lie below it, the innermost and latest first."""
    base = os.fspath(path).rstrip("/")
    found = [point for point in points if point == base or point.startswith(f"{base}/")]
    order = sorted(enumerate(found), key=lambda numbered: (-numbered[1].count("/"), -numbered[0]))
    return [point for _, point in order]


def mounted_below(path: Path, *, itself: bool = True) -> list[str]:
    """What is mounted below `path` (and at it, unless `itself` is False) in this mount namespace, the innermost first.

    `itself` False is for a directory that may be somebody's own file system, given to us to use.
    """
    own = path.resolve()
    found = below(own, mount_points(Path("/proc/self/mountinfo").read_text()))
    return found if itself else [point for point in found if point != os.fspath(own)]


def unmount_below(path: Path, *, itself: bool = True, runner: Runner = run) -> list[str]:
    """Unmount everything that `mounted_below` finds; gives what could not be unmounted."""
    for point in mounted_below(path, itself=itself):
        try:
            runner(["umount", point])
        except CommandFailed as failed:
            logger.warning("cannot unmount %s: %s", point, failed.found)
    return mounted_below(path, itself=itself)


def remove_tree(path: Path) -> None:
    """Remove a file or a directory with all that is in it; nothing if there is none.

    KtoolError, and nothing removed, if something is mounted below it.
    """
    if path.is_symlink() or path.is_file() or path.is_socket():
        path.unlink()
        return
    if not path.exists():
        return
    mounted = mounted_below(path)
    if mounted:
        raise KtoolError(
            f"{path} cannot be removed",
            found=f"mounted below it: {', '.join(mounted)}",
            wanted="no mounts, for removing would empty what is mounted",
            mend=f"umount {mounted[0]}, then the same command again",
        )
    shutil.rmtree(path)
