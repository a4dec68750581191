"""A machine's control groups: where its processes are, and what memory and processor time they may use.

Version 1 has a tree per controller: the machine gets a group of the same name in each. Version 2 has one tree, whose
inner groups may hold no processes; where systemd runs, the machine's unit is delegated to us (`Delegate=yes`) and the
group is made below it, elsewhere at the top. Groups are named after the machine, so that they are found again.

Many version 1 hosts have an empty version 2 tree beside (`unified`). systemd-nspawn looks there for the group that it
is in and makes the machine's groups of that name: without one of ours, all machines would share `/payload`, and each
systemd would remove the others' groups.

Where systemd is pid 1 of a version 1 host, the trees in which it keeps track of units are left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from provision.machine import cgroup_version
from provision.services import systemd

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
GONE_SECONDS = 5.0


def name(identity: str) -> str:
    """The machine's groups' name."""
    return f"ktool-lab-{identity}"


def settings(version: int, *, memory_bytes: int, cpus: float) -> Mapping[str, str]:
    """The files of a group that limit it, and their contents (cgroups v1: by controller, `memory/...`)."""
    quota = round(cpus * PERIOD_MICROSECONDS)
    if version == 2:
        return {"memory.max": str(memory_bytes), "cpu.max": f"{quota} {PERIOD_MICROSECONDS}"}
    return {
        "memory/memory.limit_in_bytes": str(memory_bytes),
        "cpu/cpu.cfs_period_us": str(PERIOD_MICROSECONDS),
        "cpu/cpu.cfs_quota_us": str(quota),
    }


def enter(identity: str, *, memory_bytes: int, cpus: int, root: Path = ROOT) -> list[str]:
    """Put this process into the machine's groups, which are made where they are missing, with its limits.

    Gives in words what this kernel does not let us do; the machine starts without it.
    """
    problems: list[str] = []
    for group in _wanted(identity, root):
        group.mkdir(exist_ok=True)
        for given in ("cpuset.cpus", "cpuset.mems"):  # version 1 wants them before the first process
            if (group / given).exists() and cgroup_version(root) == 1:
                (group / given).write_text((group.parent / given).read_text())
        _write(group / "cgroup.procs", "0", problems)
        if cgroup_version(root) == 2:
            offered = (group.parent / "cgroup.controllers").read_text().split()
            for controller in CONTROLLERS:
                if controller in offered:
                    _write(group.parent / "cgroup.subtree_control", f"+{controller}", problems)
    return problems + limit(identity, memory_bytes=memory_bytes, cpus=cpus, root=root)


def limit(identity: str, *, memory_bytes: int, cpus: float, root: Path = ROOT, pid: int | None = None) -> list[str]:
    """Set a machine's limits, also while it runs; `pid` is then its first process. `cpus` may be a part of one.

    Problems in words.
    """
    version = cgroup_version(root)
    problems: list[str] = []
    for file, value in settings(version, memory_bytes=memory_bytes, cpus=cpus).items():
        if version == 2:
            path = _unified(identity, root, pid) / file
        else:
            controller, _, inner = file.partition("/")
            path = root / controller / name(identity) / inner
        _write(path, value, problems)
    return problems


def remove(identity: str, *, root: Path = ROOT) -> bool:
    """Remove the groups of a machine that has ended; True if there were some.

    Waits a moment for the kernel to let go of the last process. Below a systemd unit, systemd removes them itself.
    """
    found = [group for group in existing(identity, root=root) if group.is_dir()]
    deadline = time.monotonic() + GONE_SECONDS
    for group in found:
        for inner, _, _ in os.walk(group, topdown=False):
            while True:
                try:
                    os.rmdir(inner)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
    return bool(found)


def existing(identity: str, *, root: Path = ROOT) -> list[Path]:
    """The groups of a machine that are there."""
    candidates = [root / name(identity), *(tree / name(identity) for tree in _trees(root))]
    return [group for group in candidates if group.is_dir()]


def processor_seconds(identity: str, *, root: Path = ROOT, pid: int | None = None) -> float:
    """The processor time that a machine's processes have used since it started; `pid` is its first one. OSError."""
    if cgroup_version(root) == 2:
        lines = (_unified(identity, root, pid) / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6
    return int((root / "cpuacct" / name(identity) / "cpuacct.usage").read_text()) / 1e9


def _wanted(identity: str, root: Path) -> Iterable[Path]:
    if cgroup_version(root) == 2:
        return [_unified(identity, root, None)]
    units = {"systemd", "unified"} if systemd.is_running() else set()
    return [tree / name(identity) for tree in _trees(root) if tree.name not in units]


def _trees(root: Path) -> list[Path]:
    """Version 1's trees; `cpu` and the like may be links to a tree with two controllers, which is taken once."""
    if cgroup_version(root) == 2 or not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]


def _unified(identity: str, root: Path, pid: int | None) -> Path:
    """The machine's group under version 2, as seen from this process or from the machine's first one."""
    text = Path(f"/proc/{'self' if pid is None else pid}/cgroup").read_text()
    own = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/").lstrip("/")
    parts = Path(own).parts
    if name(identity) in parts:
        return root.joinpath(*parts[: parts.index(name(identity)) + 1])
    return (root / own if systemd.is_running() else root) / name(identity)


def _write(path: Path, value: str, problems: list[str]) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
