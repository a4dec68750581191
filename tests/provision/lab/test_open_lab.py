from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab.open_lab import OpenLab
from provision.lab_state import LabState
from provision.providers.factory import providers_for
from provision.providers.nspawn.folder import MachineFolder
from provision.providers.provider import MachineState


def lab(*machines: tuple[str, ProviderName]) -> Lab:
    made = tuple(Machine(name=name, provider=provider, roles=frozenset({Role.WORKER})) for name, provider in machines)
    return Lab(name="lab", source=Path("lab.yml"), machines=made)


@pytest.mark.parametrize(
    ("remembered", "expected"),
    [((), {"local"}), (("nspawn",), {"local", "nspawn"}), (("redfish", "nspawn"), {"local", "nspawn", "redfish"})],
)
def test_providers_that_made_something_are_asked(
    tmp_path: Path, remembered: tuple[str, ...], expected: set[str]
) -> None:
    state = LabState(tmp_path)
    for name in remembered:
        state.provider(name).mkdir(parents=True)
    assert {str(name) for name in providers_for(lab(("m", ProviderName.LOCAL)), state)} == expected


@pytest.mark.parametrize(("left", "key"), [("m", "m (nspawn)"), ("other", "other")])
def test_a_machine_of_another_provider_is_not_masked(tmp_path: Path, left: str, key: str) -> None:
    state = LabState(tmp_path)
    folder = MachineFolder(state.provider("nspawn") / "machines" / left)
    folder.path.mkdir(parents=True)
    opened = OpenLab(lab(("m", ProviderName.LOCAL)), state)
    found = asyncio.run(opened.find())
    assert list(found) == ["m", key]
    assert found["m"].known
    assert (found[key].name, found[key].known, found[key].state) == (left, False, MachineState.BROKEN)
