"""An inventory file or folder as a Lab, or all that is wrong with it at once."""

from __future__ import annotations

import os
from pathlib import Path

from provision.inventory.ansible_source import load
from provision.inventory.checks import check, without_echoes
from provision.inventory.finding import Finding, InventoryError, placed
from provision.inventory.lab import Lab
from provision.inventory.translation import translate


def read(path: Path) -> Lab:
    """The lab that an Ansible inventory describes; `path` is a file or a folder.

    Raises InventoryError with every finding if something is wrong, KtoolError if Ansible cannot read it at all. Takes
    about half a second, nearly all of it to start Ansible.
    """
    source = load(path)
    translation = translate(source.hosts, path)
    checked = without_echoes(check(translation.lab), translation.findings)
    if findings := [*translation.findings, *checked]:
        places = {
            (host.name, variable): _shortened(place)
            for host in source.hosts
            for variable, place in host.origins.items()
        }
        raise InventoryError(path, placed(findings, places, default=str(path)))
    return translation.lab


def _shortened(place: str) -> str:
    """A place as seen from here, if it is below."""
    relative = os.path.relpath(place)
    return place if relative.startswith("..") else relative


__all__ = ["Finding", "InventoryError", "read"]
