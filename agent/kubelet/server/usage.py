"""What the node and its containers use, as the statistics of the kubelet's API have it.

Readings are cheap but not free, and several readers (metrics, `kubectl top`, a dashboard) ask at once: a reading is
good for a moment. How fast CPU time grows is told by the reading before it.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
from msgspec import Struct

from agent.kubelet.machine import existing
from agent.runtime.runtime import ContainerStats, FilesystemUsage, Runtime, RuntimeUnavailable
from kube.clock import Clock

FRESH_SECONDS = 1.0
# A rate over less than this would be noise.
MIN_RATE_SECONDS = 0.5


class NodeUsage(Struct, frozen=True):
    """The machine. Sizes in bytes, `cpu_ns` is CPU time since boot over all CPUs; times are seconds since 1970."""

    time: float
    boot_time: float
    cpu_ns: int
    memory_total: int
    memory_available: int
    memory_usage: int
    disk_total: int
    disk_available: int
    disk_used: int
    inodes: int
    inodes_free: int
    network: dict[str, tuple[int, int, int, int]]

    @property
    def memory_working_set(self) -> int:
        """Memory that cannot be had at once."""
        return self.memory_total - self.memory_available


class Reading(Struct, frozen=True):
    """One reading; `nano_cores` is the present rate by container ID ("" for the node), where there is one."""

    node: NodeUsage
    containers: tuple[ContainerStats, ...]
    images: FilesystemUsage | None
    nano_cores: dict[str, int]


class UsageReader:
    """Reads the machine and the runtime. `data_dir` names the file system that pods' volumes are on."""

    def __init__(self, runtime: Runtime, clock: Clock, *, data_dir: Path) -> None:
        self._runtime = runtime
        self._clock = clock
        self._path = existing(data_dir)
        self._lock = asyncio.Lock()
        self._last: Reading | None = None
        self._read_at = float("-inf")

    async def read(self) -> Reading:
        """Usage now, or a moment ago. Where the runtime does not answer there are no containers."""
        async with self._lock:
            if self._last is not None and self._clock.monotonic() - self._read_at < FRESH_SECONDS:
                return self._last
            node = await asyncio.to_thread(node_usage, self._path)
            try:
                containers = tuple(await self._runtime.list_stats())
                images = await self._runtime.image_fs_info()
            except RuntimeUnavailable:
                containers, images = (), None  # a condition of the node says so already
            self._last = Reading(node, containers, images, _rates(self._last, node, containers))
            self._read_at = self._clock.monotonic()
            return self._last


def node_usage(path: Path) -> NodeUsage:
    """The machine now; `path` is on the file system that counts."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    # Guests' time is contained in user's.
    busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    memory = psutil.virtual_memory()
    disk = os.statvfs(path)
    network = {
        name: (found.bytes_recv, found.errin, found.bytes_sent, found.errout)
        for name, found in psutil.net_io_counters(pernic=True).items()
        if name != "lo"
    }
    return NodeUsage(
        time=time.time(),
        boot_time=psutil.boot_time(),
        cpu_ns=int(busy * 1e9),
        memory_total=memory.total,
        memory_available=memory.available,
        memory_usage=memory.total - memory.free,
        disk_total=disk.f_blocks * disk.f_frsize,
        disk_available=disk.f_bavail * disk.f_frsize,
        disk_used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        inodes=disk.f_files,
        inodes_free=disk.f_ffree,
        network=network,
    )


def _rates(before: Reading | None, node: NodeUsage, containers: tuple[ContainerStats, ...]) -> dict[str, int]:
    """CPU in billionths of a core since the reading before."""
    if before is None:
        return {}
    rates: dict[str, int] = {}

    def rate(key: str, then: tuple[float, int], now: tuple[float, int]) -> None:
        seconds = now[0] - then[0]
        if seconds >= MIN_RATE_SECONDS and now[1] >= then[1]:
            rates[key] = int((now[1] - then[1]) / seconds)

    rate("", (before.node.time, before.node.cpu_ns), (node.time, node.cpu_ns))
    known = {found.id: found for found in before.containers}
    for found in containers:
        if found.id in known:
            then = known[found.id]
            rate(
                found.id,
                (then.timestamp.timestamp(), then.cpu_usage_ns),
                (found.timestamp.timestamp(), found.cpu_usage_ns),
            )
    return rates
