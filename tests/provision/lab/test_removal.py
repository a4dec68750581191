from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab.destroy import destroy
from provision.lab.removal import remove_machine
from provision.lab_state import LabState
from provision.providers.nspawn.folder import MachineFolder


def lab(provider: ProviderName) -> Lab:
    master = Machine(name="one", provider=ProviderName.LOCAL, roles=frozenset({Role.MASTER}))
    worker = Machine(name="two", provider=provider, roles=frozenset({Role.WORKER}))
    return Lab(name="lab", source=Path("lab.yml"), machines=(master, worker))


@pytest.mark.parametrize("provider", [ProviderName.NSPAWN, ProviderName.REDFISH])
def test_what_another_provider_made_is_found_and_removed(tmp_path: Path, provider: ProviderName) -> None:
    state = LabState(tmp_path)
    folder = MachineFolder(state.provider("nspawn") / "machines" / "two")
    folder.path.mkdir(parents=True)
    removed = asyncio.run(remove_machine(lab(provider), state, "two"))
    assert removed.did == ["machine removed, with its disks"]
    assert not folder.path.exists()


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="there is no machine three") as raised:
        asyncio.run(remove_machine(lab(ProviderName.NSPAWN), LabState(tmp_path), "three"))
    assert raised.value.wanted == "one, two"


@pytest.mark.parametrize("by", ["destroy", "remove"])
def test_another_inventorys_lab_of_the_same_name_is_left(tmp_path: Path, by: str) -> None:
    theirs = tmp_path / "theirs.yml"
    theirs.touch()
    state = LabState(tmp_path / "lab")
    state.claim(theirs)
    folder = MachineFolder(state.provider("nspawn") / "machines" / "two")
    folder.path.mkdir(parents=True)
    mine = lab(ProviderName.NSPAWN)
    with pytest.raises(KtoolError, match="another inventory has a lab of the name lab") as raised:
        asyncio.run(destroy(mine, state) if by == "destroy" else remove_machine(mine, state, "two"))
    assert raised.value.found == str(theirs)
    assert folder.path.is_dir()
