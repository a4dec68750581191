"""emptyDir: a folder that lives as long as its pod, on disk or in memory (Kubernetes concept: emptyDir volumes)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.kubelet.volumes import mount_table
from kube import quantity
from kube.models import core_v1

# Whoever the pod's containers run as, they may write here.
_MODE = 0o777
_GROUP_MODE = 0o2770
MEMORY = "Memory"


def prepare(path: Path, source: core_v1.EmptyDirVolumeSource, *, group: int | None, in_memory: bool) -> None:
    """Make the folder, unless it is there from before. `group` is the pod's fsGroup. OSError.

    `in_memory` False: nothing can be mounted here, and a volume of memory lies on disk.
    """
    path.mkdir(parents=True, exist_ok=True)
    if source.medium == MEMORY and in_memory and not mount_table.is_mounted(path):
        limit = quantity.value(source.sizeLimit) if source.sizeLimit else 0
        mount_table.mount_tmpfs(path, mode=_MODE, size_bytes=limit, executable=True)
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if group is not None and (found.st_gid != group or mode & _GROUP_MODE != _GROUP_MODE):
        os.chown(path, -1, group)
        path.chmod(_MODE | _GROUP_MODE)
    elif group is None and mode != _MODE:
        path.chmod(_MODE)


def used_bytes(path: Path) -> int:
    """What the files below take on disk; files that disappear meanwhile don't count."""
    total = 0
    for folder, folders, files in os.walk(path):
        for name in [*folders, *files]:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
