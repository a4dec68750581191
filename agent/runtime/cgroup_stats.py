"""What a process's cgroup uses, read from the kernel's files: both cgroup versions, no runtime asked.

Docker Engine has statistics of its own, but its collector works in ticks of a second: an answer may take as long,
and costs the engine more than reading four small files costs us.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
# Version 1 says "no limit" as the largest multiple of a page in 63 bits; real limits are far below this.
_NO_LIMIT = 1 << 60


class Cgroup(Struct, frozen=True):
    """Where the accounts of one cgroup are: one directory in version 2, one per controller in version 1."""

    version: int
    cpu: Path
    memory: Path


class CgroupUsage(Struct, frozen=True):
    """CPU time in nanoseconds since the cgroup's beginning, memory in bytes; a limit of 0 is none."""

    cpu_usage_ns: int
    memory_usage_bytes: int
    memory_working_set_bytes: int
    memory_limit_bytes: int


def find(pid: int, *, root: Path = ROOT, proc: Path = PROC) -> Cgroup:
    """The cgroup of a process. Raises FileNotFoundError if the process, or its cgroup, is not there."""
    version_2 = ""
    version_1: dict[str, Path] = {}
    for line in (proc / str(pid) / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version_2 = path.lstrip("/")
        for controller in controllers.split(","):
            # Controllers mounted together have one directory, and usually a link for each name.
            mounts = (root / controller, root / controllers)
            version_1[controller] = next((mount for mount in mounts if mount.is_dir()), root) / path.lstrip("/")
    if "memory" in version_1 and "cpuacct" in version_1:
        return _existing(Cgroup(1, version_1["cpuacct"], version_1["memory"]))
    mount = root if (root / "cgroup.controllers").exists() else root / "unified"
    return _existing(Cgroup(2, mount / version_2, mount / version_2))


def read(cgroup: Cgroup) -> CgroupUsage:
    """What the cgroup uses now. Raises FileNotFoundError if it is gone (or OSError: it goes this moment).

    The working set is what cannot be given back at once: usage without the inactive page cache.
    """
    if cgroup.version == 1:
        cpu_ns = int((cgroup.cpu / "cpuacct.usage").read_text())
        usage = int((cgroup.memory / "memory.usage_in_bytes").read_text())
        limit = int((cgroup.memory / "memory.limit_in_bytes").read_text())
        inactive = _field(cgroup.memory / "memory.stat", "total_inactive_file")
    else:
        cpu_ns = 1000 * _field(cgroup.cpu / "cpu.stat", "usage_usec")
        usage = int((cgroup.memory / "memory.current").read_text())
        text = (cgroup.memory / "memory.max").read_text().strip()
        limit = _NO_LIMIT if text == "max" else int(text)
        inactive = _field(cgroup.memory / "memory.stat", "inactive_file")
    return CgroupUsage(cpu_ns, usage, max(0, usage - inactive), 0 if limit >= _NO_LIMIT else limit)


def _existing(cgroup: Cgroup) -> Cgroup:
    for path in (cgroup.cpu, cgroup.memory):
        if not path.is_dir():
            raise FileNotFoundError(f"no cgroup {path}")
    return cgroup


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
