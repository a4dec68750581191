"""Whether KVM boots a machine here: found out by booting one, for the device file is no proof.

Inside other virtual machines /dev/kvm may be there and a guest hang all the same. So a kernel without a disk is started
under KVM: within seconds it finds no root, panics and, told to, ends its machine. If it does not, everything is
emulated (TCG), several times slower. The result holds until the host boots again.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import libvirt

from kube.files import write_atomic
from provision.machine_image.recipe import content_key
from provision.providers.libvirt.connection import Connection, Handle
from provision.providers.provider import Report

KVM, EMULATED = "kvm", "qemu"
TRY_SECONDS = 10.0
# A kernel that has said nothing by then will not.
SILENT_SECONDS = 5.0
_POLL_SECONDS = 0.1
_REMOTE_HOLDS_SECONDS = 24 * 3600.0


def domain_type(connection: Connection, *, arch: str, chipset: str, kernel: str, cache: Path, report: Report) -> str:
    """libvirt's domain type for machines on that host: `kvm` if a kernel boots under it, else `qemu`, said aloud.

    `kernel` is the path of a kernel on the libvirt host; empty: there is none to try with, and libvirt's word counts.
    """
    offered = _offered(connection, arch=arch, chipset=chipset)
    if not offered or not kernel:
        kind = KVM if offered else EMULATED
    else:
        note = cache / "acceleration" / content_key([_host(connection).encode(), kernel.encode()])
        kind = _kept(note, connection)
        if not kind:
            report("trying whether KVM boots a machine here")
            kind = KVM if _boots(connection, arch=arch, chipset=chipset, kernel=kernel) else EMULATED
            write_atomic(note, kind.encode())
    if kind == EMULATED:
        why = "no kernel boots under it here" if offered else "libvirt's host does not offer it"
        report(f"KVM does not work ({why}): machines are emulated, several times slower")
    return kind


def _offered(connection: Connection, *, arch: str, chipset: str) -> bool:
    try:
        connection.handle.getDomainCapabilities(None, arch, chipset, KVM, 0)
    except libvirt.libvirtError:
        return False
    return True


def _host(connection: Connection) -> str:
    """Names the host since its last boot, where that can be known."""
    boot = ""
    if connection.place.is_local:
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{connection.place.uri} {connection.handle.getVersion()} {boot}"


def _kept(note: Path, connection: Connection) -> str:
    with contextlib.suppress(OSError):
        fresh = connection.place.is_local or time.time() - note.stat().st_mtime < _REMOTE_HOLDS_SECONDS
        if fresh and (kind := note.read_text()) in (KVM, EMULATED):
            return kind
    return ""


def _boots(connection: Connection, *, arch: str, chipset: str, kernel: str) -> bool:
    """Whether a kernel under KVM comes to the point where it lacks a root."""
    serial = "ttyS0" if arch == "x86_64" else "ttyAMA0"
    name = f"ktool-kvm-try-{int(time.time() * 1000) % 10**9}"
    text = f"""<domain type='kvm'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
        <os><type arch='{arch}' machine='{chipset}'>hvm</type><kernel>{kernel}</kernel>
        <cmdline>console={serial} panic=-1</cmdline></os><features><acpi/></features><cpu mode='host-passthrough'/>
        <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
        <devices><serial type='pty'/><controller type='usb' model='none'/><memballoon model='none'/></devices>
        </domain>"""
    try:
        # Paused, so that nothing is said before somebody listens.
        domain = connection.handle.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)
    except libvirt.libvirtError:
        return False
    try:
        stream = connection.handle.newStream(libvirt.VIR_STREAM_NONBLOCK)
        domain.openConsole(None, stream, 0)
        domain.resume()
        return _panics(stream)
    except libvirt.libvirtError:
        return False
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()


def _panics(stream: Handle) -> bool:
    said = b""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < TRY_SECONDS and (said or waited < SILENT_SECONDS):
        try:
            piece = stream.recv(65536)
        except libvirt.libvirtError:
            piece = b""  # the machine has ended, and its console with it
        if isinstance(piece, bytes) and piece:
            said += piece
            if b"Kernel panic - not syncing: VFS" in said:
                return True
        elif piece == b"":
            return False
        else:  # -2: nothing yet
            time.sleep(_POLL_SECONDS)
    return False
