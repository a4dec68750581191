"""Labs for these tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.inventory.lab import Lab, Machine, NetworkMode, NetworkSettings, ProviderName, Role


def machine(name: str, **fields: Any) -> Machine:
    """A worker by libvirt, which boots: few of these tests need a machine that is up."""
    plain = Machine(name=name, provider=ProviderName.LIBVIRT, roles=frozenset({Role.WORKER}), warm_start=False)
    return replace(plain, **fields)


def lab(*machines: Machine | str, name: str = "lab", **fields: Any) -> Lab:
    """A lab of these machines; a text is a machine's name."""
    made = tuple(machine(one) if isinstance(one, str) else one for one in machines)
    return replace(Lab(name=name, source=Path("/lab.yml"), machines=made), **fields)


def network(mode: NetworkMode = NetworkMode.NAT, **fields: Any) -> NetworkSettings:
    """A network of that mode."""
    return replace(NetworkSettings(mode=mode), **fields)
