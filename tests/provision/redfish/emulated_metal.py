"""Bare metal for tests: virtual machines without anything on their disks, behind a Redfish service.

A libvirtd of the test's own, one blank domain per machine on a bridge, and sushy-tools' emulator as their BMC. The
folders that libvirtd uses are laid over by temporary ones in the mounts of the test's namespace (scripts/in-netns), so
that it meets no other libvirtd. Everything ends with the context manager.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from provision import processes
from tests.provision.redfish.redfish_service import RedfishService, redfish_service

LAID_OVER = ("/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/etc/libvirt")
PROGRAMS = ("libvirtd", "virtlogd", "qemu-system-x86_64", "qemu-img", "ip", "dnsmasq")
URI = "qemu:///system"
BRIDGE, ADDRESS = "kt-metal", "198.51.100.1"
MEMORY_MIB, DISK_GIB = 1024, 6
START_SECONDS = 30.0

# As root: it need not give files to another user, who could not read a test's folders.
_QEMU = """
user = "root"
group = "root"
remember_owner = 0
security_driver = "none"
namespaces = []
max_core = 0
stdio_handler = "file"
"""


@dataclass(frozen=True)
class BareMetal:
    """One machine. `console` is what it wrote to its serial port."""

    name: str
    mac: str
    console: Path


def missing() -> str:
    """Why no such machine can be had here, or an empty string."""
    if not os.environ.get("KTOOL_NETNS"):
        return "needs a network namespace: make test"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextlib.contextmanager
def bare_metal(folder: Path, machine: BareMetal) -> Iterator[RedfishService]:
    """A blank machine, switched off, and its BMC."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_bridge())
        stack.enter_context(_libvirtd(folder))
        stack.enter_context(_domain(folder, machine))
        config = {"SUSHY_EMULATOR_LIBVIRT_URI": URI, "SUSHY_EMULATOR_IGNORE_BOOT_DEVICE": False}
        yield stack.enter_context(redfish_service(folder / "bmc", config))


@contextlib.contextmanager
def _bridge() -> Iterator[None]:
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        _run("ip", "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        _run("ip", "link", "delete", BRIDGE)


@contextlib.contextmanager
def _libvirtd(folder: Path) -> Iterator[None]:
    for path in LAID_OVER:
        Path(path).mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "kt-metal", path)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        Path("/etc/libvirt/qemu.conf").write_text(_QEMU)
        (folder / "libvirtd.conf").write_text(
            'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\n'
        )
        daemons.append(_daemon(folder, "virtlogd"))
        daemons.append(_daemon(folder, "libvirtd", "-f", str(folder / "libvirtd.conf")))
        _eventually(lambda: _virsh("list") is not None, "libvirtd does not answer")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)
        for path in reversed(LAID_OVER):
            # Lazily: what a library of this process has open goes with it.
            _run("umount", "--lazy", path)


def _daemon(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [name, "-p", str(folder / f"{name}.pid"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextlib.contextmanager
def _domain(folder: Path, machine: BareMetal) -> Iterator[None]:
    disk = folder / f"{machine.name}.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", str(disk), f"{DISK_GIB}G")
    (folder / "domain.xml").write_text(_domain_xml(machine, disk))
    _run("virsh", "-q", "-c", URI, "define", str(folder / "domain.xml"))
    try:
        yield
    finally:
        _virsh("destroy", machine.name)
        _run("virsh", "-q", "-c", URI, "undefine", machine.name)
        _end_left(machine.name)


def _domain_xml(machine: BareMetal, disk: Path) -> str:
    return f"""
<domain type='qemu'>
  <name>{machine.name}</name>
  <memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><bios useserial='yes'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe' discard='unmap'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <source bridge='{BRIDGE}'/><mac address='{machine.mac}'/><model type='virtio'/>
    </interface>
    <serial type='file'><source path='{machine.console}' append='on'/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>
"""


def _end_left(name: str) -> None:
    """A qemu that libvirtd lost."""
    for pid in processes.all_pids():
        command = processes.command_line(pid)
        if command.startswith(("/usr/bin/qemu-system", "qemu-system")) and f"guest={name}," in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def power(name: str) -> str:
    """What libvirt says of a machine, past Redfish."""
    return (_virsh("domstate", name) or "").strip()


def cut_power(name: str) -> None:
    """Pull the plug."""
    _virsh("destroy", name)


def _virsh(*arguments: str) -> str | None:
    done = subprocess.run(
        ["virsh", "-q", "-c", URI, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"


def _eventually(read: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not read():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
