from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kube import status
from kube.errors import KtoolError
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, ProviderName, Role
from provision.lab import etcd, removal
from provision.lab.destroy import destroy
from provision.lab.etcd import MemberView
from provision.lab.open_lab import OpenLab
from provision.lab.removal import RemovalOptions, Removed, remove_machine
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


class Masters:
    """The etcd of a lab's masters, and what is done to it and to a machine, in order."""

    def __init__(self, *, healthy: Sequence[str]) -> None:
        names = ("one", "two", "three")
        self.members = [MemberView(id=name, name=name, healthy=name in healthy) for name in names]
        self.done: list[str] = []

    async def look(self, open_lab: object) -> list[MemberView]:
        return self.members

    async def remove(self, open_lab: object, name: str) -> str:
        self.done.append(f"etcd remove {name}")
        return "member of etcd removed"


@pytest.fixture
def remove_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Masters], Removed]:
    """`node remove three`, of a machine that ktool made and that is in the inventory no more."""

    def remove(masters: Masters) -> Removed:
        async def nothing(*_: object) -> bool:
            return False

        async def connected(open_lab: OpenLab) -> None:
            open_lab.facts["one"] = RemoteFacts(services={"master": True, "etcd": True})

        async def machine_goes(removal: object) -> None:
            masters.done.append("machine removed")

        state = LabState(tmp_path)
        state.kubeconfig.touch()
        folder = MachineFolder(state.provider("nspawn") / "machines" / "three")
        folder.path.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(etcd, "members", masters.look)
        monkeypatch.setattr(etcd, "remove", masters.remove)
        monkeypatch.setattr(removal._Removal, "_drain", nothing)
        monkeypatch.setattr(removal._Removal, "_remove", machine_goes)
        monkeypatch.setattr(OpenLab, "master_connection", connected)
        return asyncio.run(remove_machine(lab(ProviderName.NSPAWN), state, "three"))

    return remove


def test_a_master_that_the_inventory_has_no_more_gives_back_its_vote_first(
    remove_three: Callable[[Masters], Removed],
) -> None:
    masters = Masters(healthy=("one", "two", "three"))
    assert remove_three(masters).did == ["member of etcd removed"]
    assert masters.done == ["etcd remove three", "machine removed"]


def test_and_it_stays_where_the_others_need_its_vote(remove_three: Callable[[Masters], Removed]) -> None:
    masters = Masters(healthy=("one", "three"))
    with pytest.raises(KtoolError, match="quorum"):
        remove_three(masters)
    assert masters.done == []


@pytest.mark.parametrize(
    ("failure", "found"),
    [
        (ConnectionError("refused by 127.0.0.1"), "refused by 127.0.0.1"),
        (status.internal_error("no leader"), "no leader"),
    ],
)
def test_an_api_server_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, found: str
) -> None:
    async def drain(*_: object) -> bool:
        raise failure

    monkeypatch.setattr(removal._Removal, "_drain", drain)
    with pytest.raises(KtoolError, match="two: ") as told:
        asyncio.run(remove_machine(lab(ProviderName.NSPAWN), LabState(tmp_path), "two"))
    assert found in told.value.found


NOBODY = KtoolError("the masters cannot say who is in etcd", found="no answer")


def three_masters() -> Lab:
    names = ("one", "two", "three")
    machines = (Machine(name=n, provider=ProviderName.NSPAWN, roles=frozenset({Role.MASTER})) for n in names)
    return Lab(name="lab", source=Path("lab.yml"), machines=tuple(machines))


@pytest.fixture
def remove_while_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Removed]:
    """`node remove NAME` of a lab of nspawn machines whose API servers and etcd do not answer."""

    def remove(lab: Lab, name: str, *, force: bool, there: bool) -> Removed:
        async def silent(*_: object) -> None:
            raise NOBODY

        async def refused(*_: object) -> bool:
            raise ConnectionError("refused by 127.0.0.1")

        state = LabState(tmp_path)
        state.kubeconfig.touch()
        if there:
            MachineFolder(state.provider("nspawn") / "machines" / name).path.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(etcd, "members", silent)
        monkeypatch.setattr(removal._Removal, "_drain_by_api", refused)
        return asyncio.run(remove_machine(lab, state, name, options=RemovalOptions(force=force)))

    return remove


def test_a_worker_goes_while_no_api_server_answers_if_somebody_insists(
    remove_while_nobody_answers: Callable[..., Removed],
) -> None:
    with pytest.raises(KtoolError, match="cannot be asked to do without two") as refused:
        remove_while_nobody_answers(lab(ProviderName.NSPAWN), "two", force=False, there=True)
    assert "--force" in refused.value.mend
    gone = remove_while_nobody_answers(lab(ProviderName.NSPAWN), "two", force=True, there=True)
    assert gone.did == ["machine removed, with its disks"]
    assert [text for text in gone.remains if "`ktool node remove two -i lab.yml` again" in text]


@pytest.mark.parametrize("force", [True, False])
def test_a_master_that_may_have_the_last_copy_stays(
    remove_while_nobody_answers: Callable[..., Removed], force: bool
) -> None:
    with pytest.raises(KtoolError, match="no other one can say"):
        remove_while_nobody_answers(three_masters(), "three", force=force, there=True)


def test_a_master_that_is_gone_is_forgotten_if_somebody_insists(
    remove_while_nobody_answers: Callable[..., Removed],
) -> None:
    with pytest.raises(KtoolError, match="no other master can take three out") as refused:
        remove_while_nobody_answers(three_masters(), "three", force=False, there=False)
    assert "--force" in refused.value.mend
    gone = remove_while_nobody_answers(three_masters(), "three", force=True, there=False)
    assert gone.did == []
    assert [text for text in gone.remains if "`ktool etcd remove three`" in text]
