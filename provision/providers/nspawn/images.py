"""The root that an nspawn machine is laid over: built from Debian's packages like a virtual machine's, or a folder."""

from __future__ import annotations

from pathlib import Path

from kube.errors import KtoolError
from provision.inventory.lab import ImageSettings
from provision.machine_image.recipe import is_built, recipe_for
from provision.providers.provider import Report


def label(image: ImageSettings) -> str:
    """What a machine's notes say about its image; another label means another image. KtoolError as from `root`."""
    if is_built(image):
        return f"{image.source} ({recipe_for(image).key})"
    _require_folder(image)
    return image.source


def root(image: ImageSettings, cache: Path, report: Report, *, layer: Path | None) -> Path:
    """The folder with a machine's whole root, which nobody writes to; built if there is none yet.

    `layer` is an archive that is laid over a built root. KtoolError for an image that is a disk.
    """
    if is_built(image):
        from provision.machine_image import root as machine_root

        return machine_root.root(recipe_for(image), cache, report, layer=layer)
    _require_folder(image)
    return Path(image.source)


def _require_folder(image: ImageSettings) -> None:
    path = Path(image.source)
    if not path.is_absolute() or not (path / "usr").is_dir():
        raise KtoolError(
            "an nspawn machine cannot have this image",
            found=f"ktool_image: {image.source}",
            wanted="debian-12, or the path of a folder that holds a whole root (with usr, etc, ...)",
            mend="set ktool_image: debian-12, or ktool_provider: libvirt for images that are disks",
        )
