"""Emulated machines that go on from the memory of one that has started before, instead of starting themselves.

Where each instruction is emulated, half of the time to a Ready node passes until Docker is up, and the same things
happen in every machine. So one machine of each image and size is started once, as nobody in particular, and its memory
is kept in its disk (libvirt: internal snapshots) in the cache. A new machine gets a copy of that disk, is told who it
is by a small disk, makes keys and numbers of its own, and goes on (guest_files.py, ktool-warm.service). At its next
start it boots as any other.

Under KVM a boot takes seconds, and to another host the memory would have to be brought: such machines boot. So does one
whose memory cannot be kept or brought back: nothing is lost by it but time.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import libvirt_qemu

from kube.errors import KtoolError
from provision.command import run
from provision.inventory.lab import Machine, NetworkMode
from provision.machine_image import uses
from provision.machine_image.cache import MIB, entry
from provision.machine_image.guest_files import WARM_ARGUMENT, WARM_MARK
from provision.machine_image.prepare import VirtualImage
from provision.machine_image.recipe import EMULATED_ARGUMENTS, KERNEL_ARGUMENTS, content_key
from provision.providers.libvirt import volume_names
from provision.providers.libvirt.acceleration import EMULATED
from provision.providers.libvirt.connection import Connection, Handle, doing
from provision.providers.libvirt.definitions import DomainSettings, domain_xml
from provision.providers.libvirt.images import label
from provision.providers.libvirt.ports import free_port
from provision.providers.libvirt.seed import IDENTITY_BYTES
from provision.providers.libvirt.snapshots import WARM
from provision.providers.provider import Report

GIB = 1024**3
# To be raised with every change here that makes another memory of the same image.
FORMAT = 2
# A machine alone starts, and loads its programs, in a minute.
START_SECONDS = 600.0
_POLL_SECONDS = 0.2
_MAC = "52:54:00:00:00:01"
# With other settings the programs would be others.
_USUAL = {"ktool_supervisor": "auto", "ktool_data_dir": "/var/lib/ktool"}


def settings_for(machine: Machine, *, arch: str, mode: NetworkMode) -> DomainSettings:
    """The definition of the machine whose memory is kept for such machines; without paths, which differ each time.

    What decides how the memory looks is in here: size, processors, devices and their order, programs.
    """
    serial = "ttyS0" if arch == "x86_64" else "ttyAMA0"
    loaded = f"{WARM_ARGUMENT}={programs(machine)}"
    return DomainSettings(
        name="ktool-warm",
        uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, "urn:ktool:warm")),
        lab="",
        lab_id="",
        machine="",
        version="",
        image="",
        type=EMULATED,
        arch=arch,
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
        mac=_MAC,
        disk="disk",
        console="console",
        kernel="kernel",
        initrd="initrd",
        kernel_arguments=f"{KERNEL_ARGUMENTS} {EMULATED_ARGUMENTS} console={serial} {loaded}",
        seed="identity",
        unplugged=mode is not NetworkMode.USER,
        forwarded_port=1 if mode is NetworkMode.USER else 0,
    )


def programs(machine: Machine) -> str:
    """What of ktool's is loaded in the memory of such machines, as it will be run there."""
    if any(machine.variables.get(name, usual) != usual for name, usual in _USUAL.items()):
        return ""
    return ",".join([*(["master"] if machine.is_master else []), *(["agent"] if machine.runs_agent else [])])


def key_for(settings: DomainSettings, image: VirtualImage, *, disk_gib: int, version: str) -> str:
    """Names the memory. `version` is QEMU's and libvirt's: another one may have other devices."""
    said = f"{FORMAT} {version} {disk_gib} {image.key} {image.format} {IDENTITY_BYTES}"
    return content_key([said.encode(), domain_xml(settings).encode()])


class WarmStarts:
    """The memories that a lab's machines start from; several threads may ask."""

    def __init__(self, connection: Connection, lab: Path, *, cache: Path, mode: NetworkMode) -> None:
        self._connection = connection
        self._lab = lab
        self._cache = cache
        self._mode = mode
        self._lock = threading.Lock()
        self._disks: dict[tuple[str, int, int, int, str], Path | None] = {}

    def disk(self, machine: Machine, image: VirtualImage, report: Report, *, kind: str, arch: str) -> Path | None:
        """The disk with the memory that a new machine starts from: made at the first call (about the time of a start),
        then kept. None for a machine that has to boot; why, if that is unexpected, is told.

        `kind` is libvirt's domain type, `arch` its host's.
        """
        if kind != EMULATED or image.boot is None or not machine.warm_start or not self._connection.place.is_local:
            return None
        shape = (image.key, machine.memory_mib, machine.cpus, machine.disk_gib, programs(machine))
        with self._lock:
            if shape not in self._disks:
                self._disks[shape] = None
                try:
                    self._disks[shape] = self._disk(machine, image, report, arch=arch)
                except KtoolError as error:
                    report(f"the machine's memory cannot be kept, so it boots: {error}")
            return self._disks[shape]

    def _disk(self, machine: Machine, image: VirtualImage, report: Report, *, arch: str) -> Path:
        settings = settings_for(machine, arch=arch, mode=self._mode)
        with doing("libvirt does not tell of its host"):
            version = f"{self._connection.handle.getVersion()} {self._connection.handle.getLibVersion()}"
        key = key_for(settings, image, disk_gib=machine.disk_gib, version=version)

        def make(folder: Path) -> None:
            report("starting the image once, to keep its memory for all machines of this size")
            assert image.boot is not None
            with owned_as_before(image.disk, image.boot.kernel, image.boot.initrd):
                self._make(folder, settings, image, machine.disk_gib * GIB, report)

        need = machine.memory_mib * MIB + GIB
        made = entry(self._cache, "warm-starts", key, make=make, need=need, report=report) / "disk.qcow2"
        # In place of the one that such machines had of an older image.
        size = f"{machine.memory_mib} {machine.cpus} {machine.disk_gib} {programs(machine)}"
        uses.note(self._cache, self._lab, f"memory {label(machine.image)} {size}", [made])
        return made

    def _make(self, folder: Path, settings: DomainSettings, image: VirtualImage, capacity: int, report: Report) -> None:
        assert image.boot is not None
        disk, identity, console = folder / "disk.qcow2", folder / "identity", folder / "console.log"
        backing = ["-b", str(image.disk), "-F", image.format]
        run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), str(capacity)])
        identity.write_bytes(bytes(IDENTITY_BYTES))
        console.touch()
        mark = uuid.uuid4()
        settings = replace(
            settings,
            name=f"ktool-warm-{mark.hex[:8]}",
            uuid=str(mark),
            disk=str(disk),
            seed=str(identity),
            console=str(console),
            kernel=str(image.boot.kernel),
            initrd=str(image.boot.initrd),
            forwarded_port=free_port() if settings.forwarded_port else 0,
        )
        with doing("the machine whose memory is to be kept cannot be started"):
            # It ends with our connection, however we end.
            domain = self._connection.handle.createXML(domain_xml(settings), libvirt.VIR_DOMAIN_START_AUTODESTROY)
        try:
            self._wait(domain, console)
            report("keeping its memory")
            with doing("the machine's memory cannot be kept"):
                # libvirt keeps none of a machine that ends with its connection; QEMU does.
                how = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
                said = libvirt_qemu.qemuMonitorCommand(domain, f"savevm {WARM}", how).strip()
            if said:
                raise KtoolError("the machine's memory cannot be kept", found=said, wanted="QEMU says nothing")
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
        # In a lab's storage pool the image lies beside the disk, under that name.
        base = volume_names.base(image.key)
        run(["qemu-img", "rebase", "-u", "-q", "-f", "qcow2", "-b", base, "-F", image.format, str(disk)])
        os.chown(disk, os.geteuid(), os.getegid())
        identity.unlink()
        console.unlink()

    def _wait(self, domain: Handle, console: Path) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if WARM_MARK.encode() in console.read_bytes():
                    return
            with doing("libvirt does not tell of the machine whose memory is to be kept"):
                active = bool(domain.isActive())
            if not active or time.monotonic() > end:
                said = console.read_text(errors="replace")[-500:].strip() or "nothing on its console"
                raise KtoolError(
                    "the machine whose memory is to be kept does not come up",
                    found=said if active else f"it has stopped: {said}",
                    wanted=f"up within {START_SECONDS:.0f} s",
                )
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def owned_as_before(*paths: Path) -> Iterator[None]:
    """Let files be whose they were after the block: libvirt gives what a machine reads to QEMU's user, who might then
    write to what other labs' machines are made from."""
    owners = [(path, path.stat()) for path in paths if path.exists()]
    try:
        yield
    finally:
        for path, before in owners:
            with contextlib.suppress(OSError):
                os.chown(path, before.st_uid, before.st_gid)


def snapshot_xml(domain: str) -> str:
    """The snapshot that a disk has already, told to libvirt (libvirt: "Snapshot XML format"); `domain` is the machine's
    definition."""
    root = ET.fromstring(domain)  # noqa: S314 (libvirt's own)
    snapshot = ET.Element("domainsnapshot")
    for tag, text in (("name", WARM), ("state", "running"), ("creationTime", "0")):
        ET.SubElement(snapshot, tag).text = text
    ET.SubElement(snapshot, "memory", snapshot="internal")
    disks = ET.SubElement(snapshot, "disks")
    for target in (one.get("dev", "") for one in root.findall("devices/disk/target")):
        ET.SubElement(disks, "disk", name=target, snapshot="internal" if target == "vda" else "no")
    snapshot.append(root)
    return ET.tostring(snapshot, encoding="unicode")


def forget(domain: Handle, disk: str, report: Report) -> bool:
    """Remove the memory that a killed ktool left in a machine's disk; True if there was one, and is no more.

    `disk` is the path of a disk on this host that nobody is using, or empty: in that one the memory is found, too, if
    libvirt was not told of it yet.
    """
    left = [snapshot for snapshot in domain.listAllSnapshots() if snapshot.getName() == WARM]
    try:
        if not left and disk and keeps_memory(disk):
            left = [_told(domain)]
        for snapshot in left:
            report("removing the memory that an interrupted run has left in its disk")
            snapshot.delete()
    except libvirt.libvirtError as error:  # it takes room, and stops nothing
        report(f"that memory stays: {error.get_error_message() or error}")
        return False
    return bool(left)


def keeps_memory(disk: str) -> bool:
    """Whether a disk on this host holds the memory that a machine is to go on from; False if it cannot be read."""
    try:
        told = json.loads(run(["qemu-img", "info", "--force-share", "--output=json", disk]))
    except (KtoolError, ValueError):
        return False
    return any(snapshot.get("name") == WARM for snapshot in told.get("snapshots", ()))


def _told(domain: Handle) -> Handle:
    """The snapshot of the memory in a machine's disk, after libvirt was told of it."""
    text = snapshot_xml(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    return domain.snapshotCreateXML(text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)


def wake(domain: Handle, report: Report) -> bool:
    """Let a defined machine whose disk is a copy of `disk()` go on from there; False if it does not: it can be started.

    The memory is removed from its disk then, or it would be among the machine's snapshots.
    """
    report("going on from kept memory")
    try:
        snapshot = _told(domain)
        try:
            domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
        finally:
            snapshot.delete()
    except libvirt.libvirtError as error:
        report(f"it cannot go on from kept memory, so it boots: {error.get_error_message() or error}")
        return False
    return True
