"""What a lab's machines are made from, ahead of them: images, and the memories that emulated ones start from."""

from __future__ import annotations

import os
from pathlib import Path

from kube.errors import KtoolError
from provision.inventory.lab import Lab, ProviderName
from provision.lab_state import LabState
from provision.machine_image.prepare import VirtualImage, prepare_images, virtual_image
from provision.providers.provider import Report


def prepare(lab: Lab, cache: Path, report: Report, *, layer: Path | None = None) -> dict[str, VirtualImage | Path]:
    """Have the images, by a name that says what each is for, and what `ktool lab create` would keep besides.

    KtoolError if an image cannot be had. What libvirt has to do is left to `create` where libvirt does not answer.
    """
    prepared = prepare_images(lab, cache, report, layer=layer)
    try:
        _keep_memories(lab, cache, report, layer=layer)
    except KtoolError as error:
        report(f"only images: {error}")
    return prepared


def _keep_memories(lab: Lab, cache: Path, report: Report, *, layer: Path | None) -> None:
    machines = [machine for machine in lab.machines if machine.provider is ProviderName.LIBVIRT]
    if not machines:
        return
    try:
        from provision.providers.libvirt.acceleration import local_domain_type
        from provision.providers.libvirt.connection import Connection
        from provision.providers.libvirt.warm_starts import WarmStarts
    except ImportError:  # an image can be built where no machine runs
        return
    connection = Connection(lab.libvirt_uri)
    if not connection.place.is_local or (os.geteuid() != 0 and not connection.place.session):
        return  # no copies could be put beside the machines' disks, nor may QEMU's user read what is in ours
    try:
        warm = WarmStarts(connection, LabState.of(lab.name).path, cache=cache, mode=lab.network.mode)
        kinds: dict[str, tuple[str, str]] = {}
        for machine in machines:
            image = virtual_image(machine.image, cache, report, layer=layer)
            if image.boot is None:
                continue
            if image.key not in kinds:
                kinds[image.key] = local_domain_type(connection, image.boot.kernel, cache=cache, report=report)
            kind, arch = kinds[image.key]
            warm.disk(machine, image, report, kind=kind, arch=arch)
    finally:
        connection.close()
