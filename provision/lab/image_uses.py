"""What of the cache of images is in use: by labs, by virtual machines, by whatever runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from provision import lab_state
from provision.machine_image import prune, uses
from provision.processes import all_pids
from provision.providers.nspawn.folder import all_folders

LIBVIRT_URIS = ("qemu:///system", "qemu:///session")


def prune_images(cache: Path, *, plan_only: bool, agree: Callable[[prune.Pruning], bool]) -> prune.Pruning:
    """Remove from the cache what nobody uses, if `agree` says so. KtoolError if another ktool is at work with it."""
    if not cache.is_dir():
        return prune.Pruning((), (), 0)
    if plan_only:
        return prune.plan(cache, used(cache))
    with uses.alone(cache):
        planned = prune.plan(cache, used(cache))
        if not agree(planned):
            return prune.Pruning((), (*planned.gone, *planned.kept), 0)
        prune.remove(planned.gone)
    return planned


def used(cache: Path) -> set[Path]:
    """Paths in the cache that somebody needs."""
    noted = uses.labs(cache)
    found = {path for paths in noted.values() for path in paths}
    here = [path for path in lab_state.labs_dir().glob("*") if path.is_dir()]
    for lab in {*noted, *here}:
        found.update(_layers(lab_state.LabState(lab)))
    own = os.path.realpath(cache)
    found.update(Path(path) for path in (*_backing_files(), *_of_processes()) if path.startswith(f"{own}/"))
    return found


def _layers(state: lab_state.LabState) -> Iterable[Path]:
    """The folders that a lab's nspawn machines are laid over, whether they run or not."""
    for folder in all_folders(state.provider("nspawn") / "machines"):
        if (config := folder.config()) is not None:
            yield from map(Path, config.layers)


def _backing_files() -> Iterable[str]:
    """What disks of virtual machines are clones of, made by ktool or not, as far as this host's libvirt knows."""
    try:
        import libvirt
    except ImportError:  # who has no libvirt has none of its machines
        return
    from provision.providers.libvirt.definitions import read_volume_backing

    libvirt.registerErrorHandler(lambda *_: None, None)
    for uri in LIBVIRT_URIS:
        with contextlib.suppress(libvirt.libvirtError):  # none runs here
            connection = libvirt.openReadOnly(uri)
            try:
                for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
                    for volume in pool.listAllVolumes():
                        yield os.path.realpath(read_volume_backing(volume.XMLDesc()) or "/")
            finally:
                connection.close()


def _of_processes() -> Iterable[str]:
    """Files that processes have open, and layers that are mounted in any of their namespaces."""
    for pid in all_pids():
        process = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            yield from layers_mounted((process / "mountinfo").read_text())
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    yield os.readlink(descriptor)


def layers_mounted(mountinfo: str) -> list[str]:
    """The lower folders of overlays in the text of /proc/<pid>/mountinfo, and what is bound from a folder."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        found.append(fields[3])
        for option in fields[-1].split(","):
            if option.startswith("lowerdir="):
                found += option.removeprefix("lowerdir=").split(":")
    return found
