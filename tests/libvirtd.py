"""A private libvirtd for tests: Debian's own, at its usual places, which nobody else sees.

It runs in the namespaces of `scripts/in-netns`: bridges, firewall rules and dnsmasq stay in that network namespace,
and over libvirt's folders (configuration, state, disks, sockets) lie folders of the test's, mounted in that mount
namespace. So `qemu:///system` is this one for every program that the test starts, and not for others on the machine.

All ends with the context manager: machines, networks, daemons (by pid), mounts, files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt

from kube.files import write_atomic
from provision.lab_state import cache_dir

URI = "qemu:///system"
START_SECONDS = 30.0
# Libvirt's folders, which the private ones lie over.
FOLDERS = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/run/libvirt")

CAPABILITIES = Path("/var/cache/libvirt/qemu/capabilities")

# QEMU as root: it reads disks wherever they lie, and libvirt does not examine it anew at each start because another
# user could open /dev/kvm. No control groups: they would stay behind.
_QEMU = """\
user = "root"
group = "root"
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
"""
_LIBVIRTD = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def missing() -> str:
    """Why no private libvirtd can run here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root"
    if os.environ.get("KTOOL_NETNS") != "1":
        return "runs in the namespace of `make test` (scripts/in-netns)"
    programs = ("libvirtd", "virtlogd", "qemu-system-x86_64", "qemu-img", "dnsmasq", "ip")
    absent = [name for name in programs if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass
class Libvirtd:
    """A running one. `directory` holds its files."""

    directory: Path
    uri: str = URI


@contextlib.contextmanager
def private_libvirtd() -> Iterator[Libvirtd]:
    """A started libvirtd; everything it made is gone when the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="ktool-libvirtd-", dir="/var/tmp"))
    mounted: list[str] = []
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for folder in FOLDERS:
            own = directory / folder.strip("/").replace("/", "-")
            own.mkdir()
            Path(folder).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(own), folder], check=True, timeout=10)
            mounted.append(folder)
        # dnsmasq gives up root and writes its leases there.
        for name in ("dnsmasq", "images", "qemu"):
            Path("/var/lib/libvirt", name).mkdir(mode=0o755)
        if _known().is_dir():
            shutil.copytree(_known(), CAPABILITIES, dirs_exist_ok=True)
        Path("/etc/libvirt/qemu.conf").write_text(_QEMU)
        Path("/etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD)
        log = directory / "daemons.log"
        # The usual places of the files with their process ids are shared with other libvirtds.
        for argv in (["virtlogd"], ["libvirtd", "-f", "/etc/libvirt/libvirtd.conf"]):
            daemons.append(_start([*argv, "-p", f"/run/libvirt/{argv[0]}.pid"], log))
        _wait(daemons, log)
        yield Libvirtd(directory)
    finally:
        _clean(directory, mounted, daemons)


def _known() -> Path:
    """What an earlier libvirtd found out about QEMU, which takes five seconds; libvirt checks whether it holds."""
    return cache_dir() / "test-libvirt-capabilities"


def _keep(found: Path, kept: Path) -> None:
    """Keep what libvirtd has found out, file by file, where it did so anew: after an upgrade the old does not hold."""
    kept.mkdir(parents=True, exist_ok=True)
    for file in found.glob("*.xml"):
        place = kept / file.name
        if not place.exists() or place.read_bytes() != file.read_bytes():
            write_atomic(place, file.read_bytes(), mode=0o644)


def _start(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            # With the test, however that ends.
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            start_new_session=True,
        )


def _wait(daemons: list[subprocess.Popen[bytes]], log: Path) -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    end = time.monotonic() + START_SECONDS
    while True:
        if any(daemon.poll() is not None for daemon in daemons) or time.monotonic() > end:
            raise RuntimeError(f"libvirtd did not start:\n{log.read_text(errors='replace')[-4000:]}")
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open(URI).close()
            return
        time.sleep(0.05)


def _clean(directory: Path, mounted: list[str], daemons: list[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        if daemons:
            connection = libvirt.open(URI)
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                domain.destroy()
            for network in connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
                network.destroy()
            connection.close()
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)
    for pid in _left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if CAPABILITIES.is_dir() and "/var/cache/libvirt" in mounted:
        _keep(CAPABILITIES, _known())
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)
    shutil.rmtree(directory)


def _left() -> list[int]:
    """Machines and DHCP servers of this mount namespace, which a libvirtd that died would leave."""
    own = os.readlink("/proc/self/ns/mnt")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program = (process / "cmdline").read_bytes().split(b"\0")[0]
            libvirts = program.endswith((b"qemu-system-x86_64", b"dnsmasq", b"virtlogd"))
            if libvirts and os.readlink(process / "ns/mnt") == own and b"libvirt" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found
