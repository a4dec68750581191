"""What a machine is put together from before it starts: its disk, and the definition of its domain."""

from __future__ import annotations

import importlib.metadata
import uuid
from dataclasses import replace
from pathlib import Path

from provision.inventory.lab import Lab, Machine, NetworkMode
from provision.lab_state import LabState
from provision.machine_image.prepare import VirtualImage
from provision.machine_image.recipe import EMULATED_ARGUMENTS, KERNEL_ARGUMENTS
from provision.providers.libvirt import volume_names
from provision.providers.libvirt.acceleration import EMULATED
from provision.providers.libvirt.definitions import DomainFacts, DomainSettings
from provision.providers.libvirt.images import GIB, LabImages, label
from provision.providers.libvirt.names import domain_name, domain_uuid, mac_of
from provision.providers.libvirt.network import LabNetwork
from provision.providers.libvirt.ports import free_port
from provision.providers.libvirt.seed import identity_disk, nocloud, nocloud_disk, oem_strings
from provision.providers.libvirt.storage import Storage
from provision.providers.provider import Report
from provision.ssh import keys, known_hosts


class MachineParts:
    """Makes the parts of a lab's machines."""

    def __init__(self, lab: Lab, state: LabState, storage: Storage, network: LabNetwork, images: LabImages) -> None:
        self._lab = lab
        self._state = state
        self._storage = storage
        self._network = network
        self._images = images

    def has_disk(self, machine: Machine) -> bool:
        """Whether the machine has a disk."""
        return self._storage.volume(volume_names.disk(machine.name)) is not None

    def own_disk(self, machine: Machine) -> str:
        """The path of the machine's disk if this process could have put it there itself; else empty."""
        disk = self._storage.volume(volume_names.disk(machine.name)) if self._storage.takes_copies() else None
        return disk.path if disk is not None else ""

    def have_disk(
        self, machine: Machine, image: VirtualImage, report: Report, *, running: bool, warm: Path | None = None
    ) -> bool:
        """Have the machine's disk as large as wanted (if it is not running); True if something had to be done.

        A new one is a copy of the disk `warm`, or else a linked clone of the image. OSError if it cannot be copied.
        """
        wanted = machine.disk_gib * GIB
        there = self._storage.volume(volume_names.disk(machine.name))
        if there is None:
            report(f"making a disk of {machine.disk_gib} GiB")
            # A new disk is a new machine: it will have another host key.
            known_hosts.unpin(self._state.known_hosts, machine.name)
            self._storage.delete(volume_names.log(machine.name))
            base = self._storage.volume(volume_names.base(image.key))
            assert base is not None
            disk = volume_names.disk(machine.name)
            if warm is not None:
                self._storage.copy(disk, warm)
            else:
                self._storage.clone(disk, base=base.path, base_form=image.format, capacity=wanted)
            return True
        if there.capacity < wanted and not running:
            report(f"enlarging the disk to {machine.disk_gib} GiB")
            self._storage.resize(volume_names.disk(machine.name), wanted)
            return True
        return False

    def settings(
        self, machine: Machine, image: VirtualImage, before: DomainFacts | None, report: Report
    ) -> DomainSettings:
        """How the machine is to be defined; of its definition before stays what its disk holds to."""
        name = machine.name
        disk = self._storage.volume(volume_names.disk(name))
        assert disk is not None
        # The kernel belongs to the image that the disk is a clone of, which may be an older one.
        key = volume_names.key_of(disk.backing)
        network = self._network.wanted
        settings = DomainSettings(
            name=domain_name(self._lab.name, name),
            uuid=domain_uuid(self._lab.name, name),
            lab=self._lab.name,
            lab_id=self._state.id,
            machine=name,
            version=importlib.metadata.version("ktool"),
            image=label(machine.image) if key == image.key or before is None else before.image,
            type=self._images.domain_type(image, report),
            arch=self._images.arch,
            memory_mib=machine.memory_mib,
            cpus=machine.cpus,
            mac=mac_of(self._lab, machine),
            disk=disk.path,
            console=f"{self._storage.path}/{volume_names.log(name)}",
            network=network.name if not network.bridge or network.own else "",
            bridge="" if network.own else network.bridge,
        )
        if network.mode is NetworkMode.USER:
            settings = replace(settings, forwarded_port=(before.port if before else 0) or free_port())
        kernel, initrd = (
            self._storage.volume(volume) for volume in (volume_names.kernel(key), volume_names.initrd(key))
        )
        public = keys.ensure_key(self._state.identity)
        if kernel is None or initrd is None:
            seed = nocloud_disk(nocloud(name, machine.ssh.user, public))
            return replace(settings, seed=self._storage.write(volume_names.seed(name), seed))
        serial = "ttyS0" if settings.arch == "x86_64" else "ttyAMA0"
        more = f" {EMULATED_ARGUMENTS}" if settings.type == EMULATED else ""
        return replace(
            settings,
            kernel=kernel.path,
            initrd=initrd.path,
            kernel_arguments=f"{KERNEL_ARGUMENTS}{more} console={serial} systemd.hostname={name}",
            oem_strings=oem_strings(name, public),
        )

    def identity(self, machine: Machine) -> str:
        """Have the disk that tells a machine that goes on from kept memory who it is; its path."""
        content = identity_disk(
            machine.name,
            keys.ensure_key(self._state.identity),
            mac=mac_of(self._lab, machine),
            machine_id=uuid.UUID(domain_uuid(self._lab.name, machine.name)).hex,
        )
        return self._storage.write(volume_names.identity(machine.name), content)

    def must_redefine(self, machine: Machine, before: DomainFacts) -> bool:
        """Whether the inventory wants another definition than the machine has."""
        mac = mac_of(self._lab, machine)
        same_place = before.port > 0 or before.mac == mac
        return (before.memory_mib, before.cpus) != (machine.memory_mib, machine.cpus) or not same_place
