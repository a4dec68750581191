"""A lab's images on the libvirt host, and how machines made of them run there."""

from __future__ import annotations

import threading
from pathlib import Path

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings, Machine
from provision.lab_state import LabState
from provision.machine_image import uses
from provision.machine_image.cache import digest_of
from provision.machine_image.prepare import VirtualImage, virtual_image
from provision.machine_image.recipe import machine_architecture
from provision.providers.libvirt import volume_names
from provision.providers.libvirt.acceleration import domain_type
from provision.providers.libvirt.connection import Connection, doing
from provision.providers.libvirt.storage import Storage
from provision.providers.provider import Report

GIB = 1024**3


class LabImages:
    """Builds, fetches and uploads images, each once; several threads may ask."""

    def __init__(
        self, connection: Connection, storage: Storage, state: LabState, *, cache: Path, layer: Path | None
    ) -> None:
        self._state = state
        self._connection = connection
        self._storage = storage
        self._cache = cache
        self._layer = layer
        self._lock = threading.Lock()
        self._images: dict[ImageSettings, VirtualImage] = {}
        self._type = ""

    @property
    def arch(self) -> str:
        """The libvirt host's architecture, as uname says it."""
        with doing("libvirt does not tell of its host"):
            return str(self._connection.handle.getInfo()[0])

    def image(self, settings: ImageSettings, report: Report) -> VirtualImage:
        """The image in this machine's cache. KtoolError if it cannot be had, or would not run on the libvirt host."""
        with self._lock:
            if settings not in self._images:
                self._require_architecture()
                made = virtual_image(settings, self._cache, report, layer=self._layer)
                boot = [made.boot.kernel] if made.boot is not None else []
                uses.note(self._cache, self._state.path, f"libvirt {label(settings)}", [made.disk, *boot])
                self._images[settings] = made
            return self._images[settings]

    def upload(self, image: VirtualImage, report: Report) -> bool:
        """Have the image on the libvirt host; True if it was not there."""
        changed = self._storage.ensure(report)
        name = volume_names.base(image.key)
        before = self._storage.volume(name)
        self._storage.upload(name, image.disk, form=image.format, capacity=image.size, report=report)
        if image.boot is not None:
            for volume, path in (
                (volume_names.kernel(image.key), image.boot.kernel),
                (volume_names.initrd(image.key), image.boot.initrd),
            ):
                self._storage.upload(volume, path, form="raw", capacity=0, report=report)
        return changed or before is None

    def domain_type(self, image: VirtualImage, report: Report) -> str:
        """`kvm` or `qemu`: what works there. The image has been uploaded."""
        with self._lock:
            if not self._type:
                kernel = self._storage.volume(volume_names.kernel(image.key))
                self._type = domain_type(
                    self._connection,
                    arch=self.arch,
                    chipset="q35" if self.arch == "x86_64" else "virt",
                    kernel=kernel.path if kernel is not None else "",
                    digest=digest_of(image.boot.kernel, self._cache) if image.boot is not None else "",
                    cache=self._cache,
                    report=report,
                )
            return self._type

    def _require_architecture(self) -> None:
        if self.arch in ("x86_64", "aarch64") and machine_architecture(self.arch) != machine_architecture():
            raise KtoolError(
                "the libvirt host has another architecture than this machine, which builds its images",
                found=f"{self.arch} at {self._connection.place.uri}",
                wanted="the same here and there",
                mend="run ktool on that host",
            )


def require_room(machine: Machine, image: VirtualImage) -> None:
    """KtoolError if the machine's disk would be smaller than its image."""
    if machine.disk_gib * GIB < image.size:
        raise KtoolError(
            f"the disk of {machine.name} is too small for its image",
            found=f"ktool_disk_gib: {machine.disk_gib}",
            wanted=f"at least {-(-image.size // GIB)} GiB",
        )


def label(settings: ImageSettings) -> str:
    """What an inventory says of an image. One that was built anew from the same words is no reason to make machines
    anew."""
    return " + ".join((settings.source, *sorted(settings.packages)))
