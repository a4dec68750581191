"""Whether KVM boots a machine here: found out by booting one, for the device file is no proof.

Inside other virtual machines /dev/kvm may be there and a guest hang all the same. So a kernel without a disk is started
under KVM: within seconds it finds no root, panics and, told to, ends its machine. If it does not, everything is
emulated (TCG), several times slower. The result holds until the host boots again, for every image with that kernel.

For images that bring their own kernel in their disk there is none to try with. Then it is the firmware that has to say
something: less of a proof, but processors that QEMU cannot set up fail there too.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from pathlib import Path

import libvirt

from kube.files import write_atomic
from provision.machine_image.cache import digest_of
from provision.machine_image.recipe import content_key
from provision.providers.libvirt.connection import Connection, Handle, doing
from provision.providers.provider import Report

KVM, EMULATED = "kvm", "qemu"
TRY_SECONDS = 10.0
_REMOTE_HOLDS_SECONDS = 24 * 3600.0


def domain_type(
    connection: Connection, *, arch: str, chipset: str, kernel: str, digest: str = "", cache: Path, report: Report
) -> str:
    """libvirt's domain type for machines on that host: `kvm` if a kernel boots under it, else `qemu`, said aloud.

    `kernel` is the path of a kernel on the libvirt host; empty: there is none to try with. `digest` names its content:
    the same kernel is not tried again where another image brings it to another path.
    """
    kind = EMULATED
    offered = _offered(connection, arch=arch, chipset=chipset)
    if offered and not kernel and arch != "x86_64":
        kind = KVM  # neither a kernel nor a firmware that is known to speak
    elif offered:
        note = cache / "acceleration" / content_key([_host(connection).encode(), (digest or kernel).encode()])
        kind = _kept(note, connection)
        if not kind:
            report("trying whether KVM boots a machine here")
            works = boots(connection, KVM, arch=arch, chipset=chipset, kernel=kernel)
            kind = KVM if works else EMULATED
            with contextlib.suppress(OSError):  # a cache that others keep: it is tried again next time
                if works is not None:
                    write_atomic(note, kind.encode())
    if kind == EMULATED:
        why = "nothing boots under it here" if offered else "libvirt's host does not offer it"
        report(f"KVM does not work ({why}): machines are emulated, several times slower")
    return kind


def local_domain_type(connection: Connection, kernel: Path, *, cache: Path, report: Report) -> tuple[str, str]:
    """libvirt's domain type for machines with that kernel of this host's, and the host's architecture as uname says."""
    with doing("libvirt does not tell of its host"):
        arch = str(connection.handle.getInfo()[0])
    kind = domain_type(
        connection,
        arch=arch,
        chipset="q35" if arch == "x86_64" else "virt",
        kernel=str(kernel),
        digest=digest_of(kernel, cache),
        cache=cache,
        report=report,
    )
    return kind, arch


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
    with doing("libvirt does not tell of its host"):
        return f"{connection.place.uri} {connection.handle.getVersion()} {boot}"


def _kept(note: Path, connection: Connection) -> str:
    with contextlib.suppress(OSError):
        fresh = connection.place.is_local or time.time() - note.stat().st_mtime < _REMOTE_HOLDS_SECONDS
        if fresh and (kind := note.read_text()) in (KVM, EMULATED):
            return kind
    return ""


def boots(
    connection: Connection, kind: str, *, arch: str, chipset: str, kernel: str, seconds: float = TRY_SECONDS
) -> bool | None:
    """Whether a domain of that type runs a kernel to the point where it lacks a root, or (without one) the firmware to
    where it tells its name; within `seconds`. None: QEMU's user may not read the kernel, or /dev/kvm: it says
    nothing of the next try."""
    serial = "ttyS0" if arch == "x86_64" else "ttyAMA0"
    start = f"<kernel>{kernel}</kernel><cmdline>console={serial} panic=-1</cmdline>"
    name = f"ktool-try-{uuid.uuid4().hex[:8]}"
    text = f"""<domain type='{kind}'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
        <os><type arch='{arch}' machine='{chipset}'>hvm</type>{start if kernel else "<bios useserial='yes'/>"}</os>
        <features><acpi/></features>{"<cpu mode='host-passthrough'/>" if kind == KVM else ""}
        <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
        <devices><serial type='pty'/><controller type='usb' model='none'/><memballoon model='none'/></devices>
        </domain>"""
    try:
        # Paused, so that nothing is said before somebody listens.
        domain = connection.handle.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)
    except libvirt.libvirtError as error:
        return None if "permission denied" in str(error).lower() else False
    # A stream that does not block would need libvirt's event loop; this one ends with its machine.
    end = threading.Timer(seconds, _destroy, [domain])
    end.daemon = True
    end.start()
    try:
        stream = connection.handle.newStream()
        domain.openConsole(None, stream, 0)
        domain.resume()
        return _says(stream, b"Kernel panic - not syncing: VFS" if kernel else b"SeaBIOS")
    except libvirt.libvirtError:
        return False
    finally:
        end.cancel()
        _destroy(domain)


def _says(stream: Handle, wanted: bytes) -> bool:
    """Whether a console says that before it ends."""
    said = b""
    while piece := stream.recv(65536):
        said += piece
        if wanted in said:
            return True
    return False


def _destroy(domain: Handle) -> None:
    with contextlib.suppress(libvirt.libvirtError):  # it has ended by itself
        domain.destroy()
