"""Snapshots of machines, kept in their disks (libvirt: internal snapshots), with the memory of one that runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import libvirt

from kube.errors import KtoolError
from provision.providers.libvirt.connection import Handle, doing

# The memory that a new machine went on from: none of its user's.
WARM = "ktool-warm"


def take(domain: Handle, machine: str, name: str) -> None:
    """Keep the machine's state. KtoolError if there is a snapshot of that name."""
    if name == WARM or name in names(domain):
        raise KtoolError(
            f"{machine} has a snapshot of that name",
            found=name,
            wanted="a new name",
            mend="choose another name",
        )
    snapshot = ET.Element("domainsnapshot")
    ET.SubElement(snapshot, "name").text = name
    with doing(f"the snapshot {name} of {machine} cannot be made"):
        domain.snapshotCreateXML(ET.tostring(snapshot, encoding="unicode"), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)


def restore(domain: Handle, machine: str, name: str) -> None:
    """Bring a snapshot's state back. KtoolError if there is none of that name."""
    there = names(domain)
    if name not in there:
        raise KtoolError(
            f"{machine} has no snapshot of that name",
            found=name,
            wanted=f"one of {', '.join(there)}" if there else "a snapshot; there is none",
            mend="ktool lab snapshot NAME keeps one",
        )
    with doing(f"the snapshot {name} of {machine} cannot be restored"):
        snapshot = domain.snapshotLookupByName(name)
        # By force: what the machine is doing now is what is to be lost.
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)


def names(domain: Handle) -> list[str]:
    """The machine's snapshots, the oldest first."""
    with doing("libvirt does not tell of a machine's snapshots"):
        every = domain.listAllSnapshots()
        kept = [(ET.fromstring(one.getXMLDesc()), one.getName()) for one in every]  # noqa: S314
    named = sorted((int(xml.findtext("creationTime", "0")), name) for xml, name in kept)
    return [name for _, name in named if name != WARM]
