"""Where a machine is not what the inventory wants, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from provision.providers.libvirt.definitions import DomainFacts

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the inventory says of a machine, in libvirt's terms."""

    memory_mib: int
    cpus: int
    disk_bytes: int
    mac: str
    image: str


def differences(facts: DomainFacts, wanted: Wanted, *, disk_bytes: int) -> Iterator[str]:
    """Each difference on a line of its own; `disk_bytes` is the disk's size, 0 if it has none.

    Of a running machine the facts are those that hold now, so a change that waits for its next start is one.
    """
    if facts.memory_mib != wanted.memory_mib:
        yield f"memory: {facts.memory_mib} MiB, wanted {wanted.memory_mib} MiB (from its next start)"
    if facts.cpus != wanted.cpus:
        yield f"processors: {facts.cpus}, wanted {wanted.cpus} (from its next start)"
    if disk_bytes and disk_bytes < wanted.disk_bytes:
        yield f"disk: {disk_bytes // GIB} GiB, wanted {wanted.disk_bytes // GIB} GiB (from its next start)"
    elif disk_bytes > wanted.disk_bytes:
        yield f"disk: {disk_bytes // GIB} GiB, wanted {wanted.disk_bytes // GIB} GiB (a disk cannot shrink)"
    if not facts.port and facts.mac != wanted.mac:
        yield f"hardware address: {facts.mac}, wanted {wanted.mac} (from its next start)"
    if facts.image != wanted.image:
        yield f"image: {facts.image}, wanted {wanted.image} (remove the machine and make it anew)"
