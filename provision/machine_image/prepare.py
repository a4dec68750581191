"""The images that a lab's machines need, all of them, ahead: where there are package sources or there is a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings, Lab, ProviderName
from provision.machine_image.disk import BASE_GIB, disk
from provision.machine_image.fetch import fetch
from provision.machine_image.recipe import is_built, recipe_for
from provision.machine_image.root import BootFiles, boot_files, root
from provision.providers.provider import Report


@dataclass(frozen=True, slots=True)
class VirtualImage:
    """What a virtual machine starts from. `key` names the content; `boot` is None for an image that was given: it has
    a boot loader of its own, and cloud-init to learn who it is. `size` in bytes, the least that a clone can have."""

    key: str
    disk: Path
    format: str
    size: int
    boot: BootFiles | None = None

    def __str__(self) -> str:
        return str(self.disk)


def virtual_image(image: ImageSettings, cache: Path, report: Report, *, layer: Path | None = None) -> VirtualImage:
    """The image for virtual machines, built or fetched if it is not there yet. A layer is laid over built ones only."""
    if is_built(image):
        recipe = recipe_for(image)
        path = disk(recipe, cache, report, layer=layer)
        size = BASE_GIB * 1024**3
        return VirtualImage(path.parent.name, path, "qcow2", size, boot_files(recipe, cache, report))
    given = fetch(image, cache, report)
    return VirtualImage(given.digest[:16], given.path, given.format, given.size)


def prepare_images(
    lab: Lab, cache: Path, report: Report, *, layer: Path | None = None
) -> dict[str, VirtualImage | Path]:
    """Have everything that the lab's machines are made from; by a name that says what it is for.

    KtoolError if one cannot be had.
    """
    prepared: dict[str, VirtualImage | Path] = {}
    for machine in lab.machines:
        image = machine.image
        more = f" with {', '.join(image.packages)}" if image.packages else ""
        name = f"{image.source}{more} for {machine.provider}"
        if name in prepared:
            continue
        match machine.provider:
            case ProviderName.LIBVIRT:
                prepared[name] = virtual_image(image, cache, report, layer=layer)
            case ProviderName.NSPAWN:
                prepared[name] = _root(image, cache, report, layer=layer)
            case ProviderName.REDFISH:
                from provision.providers.redfish.artifacts import artifacts  # which builds on this package

                prepared[name] = artifacts(image, cache, report, layer=layer).disk.folder
    return prepared


def _root(image: ImageSettings, cache: Path, report: Report, *, layer: Path | None) -> Path:
    if is_built(image):
        return root(recipe_for(image), cache, report, layer=layer)
    if not Path(image.source).is_dir():
        raise KtoolError(
            "the root folder for nspawn machines is missing",
            found=f"ktool_image: {image.source}",
            wanted="debian-12, or a folder with a whole root",
        )
    return Path(image.source)


def is_ready(image: ImageSettings, cache: Path) -> bool:
    """Whether a built image's root is in the cache, so that no package source is needed to use it. Reads only."""
    return is_built(image) and (cache / "roots" / recipe_for(image).key).is_dir()
