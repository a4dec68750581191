"""What an installation needs besides the network: the disk to be written, and the installer that writes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from provision.command import run
from provision.inventory.lab import ImageSettings
from provision.machine_image.bootable import BootableDisk, bootable_disk, compressed_disk
from provision.machine_image.cache import MIB, entry
from provision.machine_image.fetch import GivenImage, fetch
from provision.machine_image.purpose import Purpose
from provision.machine_image.recipe import Recipe, is_built, recipe_for
from provision.machine_image.root import layer_key, root
from provision.providers.provider import Report
from provision.providers.redfish import installer

INSTALLER_MIB = 400


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Files for one kind of machine. `given`: the disk is an image that was given, not one of ktool's own."""

    disk: BootableDisk
    kernel: Path
    initrd: Path
    given: bool

    @property
    def files(self) -> dict[str, Path]:
        """What the install server hands out, by its name there."""
        files = {"vmlinuz": self.kernel, "installer.img": self.initrd}
        return files | {piece.name: self.disk.folder / piece.name for piece in self.disk.pieces}


def artifacts(image: ImageSettings, cache: Path, report: Report, *, layer: Path | None = None) -> Artifacts:
    """Everything to install an image; made if it is not there (minutes the first time).

    The installer always comes from ktool's own image for bare metal: it needs its kernel's drivers.
    """
    built = is_built(image)
    recipe = recipe_for(image if built else ImageSettings(), purpose=Purpose.METAL)
    base = root(recipe, cache, report)
    made_at = base.parent.stat().st_mtime_ns  # a root that was refreshed keeps its key
    if built:
        whole = root(recipe, cache, report, layer=layer)
        key = f"{layer_key(recipe, layer, cache)} {made_at}"
        disk = bootable_disk(whole, cache, report, key=key, architecture=recipe.architecture)
    else:
        disk = _given_disk(fetch(image, cache, report), cache, report)
    folder = _installer(recipe, base, cache, report, made_at=made_at)
    return Artifacts(disk=disk, kernel=folder / "vmlinuz", initrd=folder / "installer.img", given=not built)


def _installer(recipe: Recipe, base: Path, cache: Path, report: Report, *, made_at: int) -> Path:
    script = installer.SCRIPT.read_bytes()
    parts = f"{recipe.key} {made_at} {installer.BUILDER} {hashlib.sha256(script).hexdigest()}"
    return entry(
        cache,
        "installers",
        hashlib.sha256(parts.encode()).hexdigest()[:16],
        make=lambda folder: installer.make_installer(base, folder, report),
        need=INSTALLER_MIB * MIB,
        report=report,
    )


def _given_disk(image: GivenImage, cache: Path, report: Report) -> BootableDisk:
    if image.format == "raw":
        return compressed_disk(image.path, cache, report, key=image.digest)
    raw = entry(
        cache,
        "raw-disks",
        image.digest[:16],
        make=lambda folder: _convert(image.path, folder / "disk.raw"),
        need=image.path.stat().st_size * 3,
        report=report,
    )
    return compressed_disk(raw / "disk.raw", cache, report, key=image.digest)


def _convert(source: Path, target: Path) -> None:
    run(["qemu-img", "convert", "-O", "raw", str(source), str(target)], timeout=600)
