"""Removing from the cache what nobody uses. What is used is for the caller to say: a file, or a folder, of an entry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.machine_image.cache import remove_tree

# What is kept by content and made anew when it is wanted. Nothing else in the cache is touched.
KINDS = (
    "roots",
    "layered-roots",
    "disks",
    "bootable-disks",
    "raw-disks",
    "fetched",
    "installers",
    "vagrant-boxes",
    "warm-starts",
)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What goes and what stays. `size` in bytes: what is free afterwards and is not now."""

    gone: tuple[Path, ...]
    kept: tuple[Path, ...]
    size: int


def entries(cache: Path) -> list[Path]:
    """The cache's entries, and what broken-off attempts to make some have left."""
    found: list[Path] = []
    for kind in KINDS:
        places = sorted((cache / kind).glob("*")) + sorted((cache / kind).glob(".*.new-*"))
        found += [place for place in dict.fromkeys(places) if place.is_dir() and not place.is_symlink()]
    return [place for place in found if not place.name.startswith(".") or ".new-" in place.name]


def plan(cache: Path, used: Iterable[Path]) -> Pruning:
    """Sort the entries by whether one of the `used` paths is (in) them. Reads only."""
    places = entries(cache)
    wanted = {Path(os.path.realpath(path)) for path in used}
    above = wanted.union(*(path.parents for path in wanted))
    kept = tuple(place for place in places if Path(os.path.realpath(place)) in above)
    gone = tuple(place for place in places if place not in kept)
    return Pruning(gone, kept, freed(gone))


def freed(places: Sequence[Path]) -> int:
    """Bytes that removing these folders gives back: a file counts if all its links are in them."""
    links: dict[tuple[int, int], int] = {}
    size = 0
    for place in places:
        for folder, _, files in os.walk(place):
            for name in files:
                found = os.lstat(os.path.join(folder, name))
                key = found.st_dev, found.st_ino
                links[key] = links.get(key, 0) + 1
                if links[key] == found.st_nlink:
                    size += found.st_blocks * 512
    return size


def remove(places: Iterable[Path]) -> None:
    """Remove entries. Each is put aside first: what is half removed is none any more, and the next run takes it."""
    for place in places:
        aside = place
        if not place.name.startswith("."):
            aside = place.with_name(f".{place.name}.new-pruned")
            remove_tree(aside)
            place.rename(aside)
        remove_tree(aside)
