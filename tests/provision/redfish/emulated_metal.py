"""Bare metal for tests: virtual machines without anything on their disks, behind a Redfish service.

A private libvirtd (tests/libvirtd.py), one blank domain on a bridge, and sushy-tools' emulator as its BMC. Everything
ends with the context manager.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.libvirtd import URI, private_libvirtd
from tests.provision.redfish.redfish_service import RedfishService, redfish_service

OVMF = Path("/usr/share/OVMF")
BRIDGE, ADDRESS = "kt-metal", "198.51.100.1"
DISK_GIB = 6
X86_64_V2 = ("cx16", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3")


@dataclass(frozen=True)
class BareMetal:
    """One machine. `console` is what it wrote to its serial port, `uefi` whether its firmware is UEFI or a BIOS.

    Its processor is a plain one, with what x86-64-v2 has: a master's compiled Python packages want that."""

    name: str
    mac: str
    console: Path
    uefi: bool = False
    memory_mib: int = 1024
    cpus: int = 1


@contextlib.contextmanager
def bare_metal(folder: Path, machine: BareMetal) -> Iterator[RedfishService]:
    """A blank machine, switched off, and its BMC."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_bridge())
        stack.enter_context(private_libvirtd())
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
def _domain(folder: Path, machine: BareMetal) -> Iterator[None]:
    disk = folder / f"{machine.name}.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", str(disk), f"{DISK_GIB}G")
    (folder / "domain.xml").write_text(_domain_xml(machine, disk))
    _run("virsh", "-q", "-c", URI, "define", str(folder / "domain.xml"))
    try:
        yield
    finally:
        _virsh("destroy", machine.name)
        _run("virsh", "-q", "-c", URI, "undefine", "--nvram", machine.name)


def _domain_xml(machine: BareMetal, disk: Path) -> str:
    firmware = (
        f"<loader readonly='yes' type='pflash'>{OVMF / 'OVMF_CODE_4M.fd'}</loader>"
        f"<nvram template='{OVMF / 'OVMF_VARS_4M.fd'}'>{disk}.vars</nvram>"
        if machine.uefi
        else ""
    )
    features = "".join(f"<feature policy='require' name='{name}'/>" for name in X86_64_V2)
    return f"""
<domain type='qemu'>
  <name>{machine.name}</name>
  <memory unit='MiB'>{machine.memory_mib}</memory><vcpu>{machine.cpus}</vcpu>
  <cpu mode='custom' match='exact' check='none'><model>qemu64</model>{features}</cpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{firmware}<boot dev='hd'/></os>
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
