"""What this machine is and what it is doing right now: a thin layer over psutil and a few files of the kernel.

`hardware()` changes only with a reboot; `Meter.read()` is cheap enough for every ten seconds.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil
from msgspec import Struct

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
# Interfaces that container engines and we ourselves make: their addresses are not the machine's.
_OWN_INTERFACES = ("docker", "br-", "veth", "ktool", "cni", "virbr", "tun", "tap", "lo")


class Hardware(Struct, frozen=True):
    """The machine's size and identity. Sizes are bytes; identifiers are empty where the machine has none."""

    cpus: int
    memory: int
    disk: int
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    system_uuid: str
    hostname: str
    max_pids: int


class Usage(Struct, frozen=True):
    """What the machine is doing. Bytes; `cpu_percent` is 0 to 100 over all CPUs since the last reading."""

    cpu_percent: float
    load: tuple[float, float, float]
    memory_available: int
    disk_available: int
    inodes_free_percent: float
    pids: int


def hardware(data_dir: Path) -> Hardware:
    """Read the machine. `data_dir` names the file system that pods' volumes and logs are on."""
    machine = platform.machine()
    return Hardware(
        cpus=psutil.cpu_count() or os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        disk=psutil.disk_usage(str(existing(data_dir))).total,
        architecture=_GOARCH.get(machine, machine),
        kernel=platform.release(),
        os_image=os_image(),
        machine_id=_line("/etc/machine-id") or _line("/var/lib/dbus/machine-id"),
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
        system_uuid=_line("/sys/class/dmi/id/product_uuid"),
        hostname=socket.gethostname().lower(),
        max_pids=min(_number("/proc/sys/kernel/pid_max"), _number("/proc/sys/kernel/threads-max")),
    )


class Meter:
    """Reads usage; the CPU's share is measured between two readings, so the first one says 0."""

    def __init__(self, data_dir: Path) -> None:
        self._path = existing(data_dir)
        psutil.cpu_percent(interval=None)

    def read(self) -> Usage:
        """Usage now."""
        files = os.statvfs(self._path)
        return Usage(
            cpu_percent=psutil.cpu_percent(interval=None),
            load=psutil.getloadavg(),
            memory_available=psutil.virtual_memory().available,
            disk_available=files.f_bavail * files.f_frsize,
            inodes_free_percent=100.0 * files.f_favail / files.f_files if files.f_files else 100.0,
            pids=_tasks(),
        )


def os_image(path: Path = Path("/etc/os-release")) -> str:
    """The operating system's name for people: `Debian GNU/Linux 12 (bookworm)`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return platform.system()
    found = dict(line.partition("=")[::2] for line in lines if "=" in line)
    return found.get("PRETTY_NAME", platform.system()).strip("\"'")


def node_ip() -> str:
    """The address under which other machines reach this one.

    The source address that the kernel would use on the default route (connecting a UDP socket sends no packet); on a
    machine without one the first global address of a real interface that is up; at last 127.0.0.1.
    """
    # An address for documentation (TEST-NET-2): hardly any network has it, so only the default route leads there.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            found = ""
    if found and not found.startswith("127."):
        return found
    addresses = {
        name: [a.address for a in known if a.family == socket.AF_INET] for name, known in psutil.net_if_addrs().items()
    }
    return first_global(addresses, {name for name, stats in psutil.net_if_stats().items() if stats.isup}) or "127.0.0.1"


def first_global(addresses: Mapping[str, list[str]], up: set[str]) -> str:
    """The first address that is not local, of an interface that is up and that no container engine made; or ""."""
    for name, known in addresses.items():
        if name in up and not name.startswith(_OWN_INTERFACES):
            for address in known:
                if not address.startswith(("127.", "169.254.")):
                    return address
    return ""


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _line(path)
    return int(text) if text.isdigit() else 1 << 22


def _tasks() -> int:
    """Number of tasks (threads count: they take pids), from the load average's fourth field."""
    fields = _line("/proc/loadavg").split()
    return int(fields[3].partition("/")[2]) if len(fields) > 3 else 0
