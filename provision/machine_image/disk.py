"""Disks of virtual machines: made from a root without loop devices or mounts, so that it takes no privileges.

A disk is one ext4 file system without a partition table, of 4 GiB, as qcow2. Machines get linked clones of it, as large
as they want: the file system grows in the machine, after SSH answers.
"""

from __future__ import annotations

from pathlib import Path

from kube.errors import KtoolError
from provision.command import run
from provision.machine import find_command
from provision.machine_image.cache import as_owner, entry
from provision.machine_image.recipe import Recipe, content_key
from provision.machine_image.root import layer_key, root
from provision.providers.provider import Report

BASE_GIB = 4
DISK_BYTES = 3 * 1024**3
# To be raised with every change here that makes another disk of the same root.
FORMAT = 2
MAKE_SECONDS = 600.0


def disk(recipe: Recipe, cache: Path, report: Report, *, layer: Path | None = None, refresh: bool = False) -> Path:
    """The qcow2 disk of a recipe, with a layer (a tar) laid over its root if one is given; made once, then kept.

    It must not be written to: machines use it as a backing file. KtoolError as from `root`, or if a program is missing.
    """
    key = content_key([layer_key(recipe, layer, cache).encode(), f"{FORMAT} {BASE_GIB}".encode()])

    def make(folder: Path) -> None:
        _require_programs()
        source = root(recipe, cache, report, layer=layer, refresh=refresh)
        report("making the disk")
        make_disk(source, folder / "disk.qcow2")

    return entry(cache, "disks", key, make=make, need=DISK_BYTES, report=report, refresh=refresh) / "disk.qcow2"


def make_disk(source: Path, target: Path) -> None:
    """Make a qcow2 disk of a folder. CommandFailed if a program fails, for example because the folder is too large."""
    raw = target.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(BASE_GIB * 1024**3)
    # Lazy: what is not used yet is not written; nothing is kept back for root, who is everybody there.
    options = ["-q", "-t", "ext4", "-L", "root", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]
    run(as_owner([find_command("mke2fs"), *options, "-d", str(source), str(raw)]), timeout=MAKE_SECONDS)
    # Packed: a third of the size, so it is brought to libvirt in a third of the time, perhaps to another host.
    packed = ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]
    run(["qemu-img", "convert", "-m", "4", "-W", *packed, str(raw), str(target)], timeout=MAKE_SECONDS)
    raw.unlink()


def _require_programs() -> None:
    packages = {"mke2fs": "e2fsprogs", "qemu-img": "qemu-utils"}
    missing = [name for name in packages if not find_command(name)]
    if missing:
        raise KtoolError(
            "a disk cannot be made: programs are missing",
            found=f"no {', '.join(missing)}",
            wanted=", ".join(packages),
            mend=f"apt-get install {' '.join(packages[name] for name in missing)}",
        )
