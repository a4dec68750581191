"""Which of several masters is asked, and what is said of their etcd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from kube.errors import KtoolError
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Machine, ProviderName, Role
from provision.lab.etcd import MemberView, members, require_leave, start_stopped, trouble
from provision.lab.open_lab import OpenLab, best_master
from provision.ssh.shell import Result

MASTERS = [
    Machine(name=name, provider=ProviderName.NSPAWN, roles=frozenset({Role.MASTER})) for name in ("m1", "m2", "m3")
]
SERVES = RemoteFacts(services={"master": True}, has_master=True)
STOPPED = RemoteFacts(services={"master": False}, has_master=True)
BARE = RemoteFacts()


@pytest.mark.parametrize(
    ("facts", "problems", "best"),
    [
        ({}, (), "m1"),
        ({"m1": BARE, "m2": BARE}, (), "m1"),
        ({"m2": BARE}, (), "m2"),
        ({"m1": BARE, "m2": STOPPED}, (), "m2"),
        ({"m1": STOPPED, "m3": SERVES}, (), "m3"),
        ({"m1": SERVES, "m2": SERVES}, (), "m1"),
        # one that failed its preflight begins no cluster; one that serves can still be asked
        ({"m1": BARE, "m2": BARE}, ("m1",), "m2"),
        ({"m1": SERVES, "m2": BARE}, ("m1",), "m1"),
        ({}, ("m1",), "m2"),
    ],
)
def test_the_master_that_is_asked(facts: dict[str, RemoteFacts], problems: tuple[str, ...], best: str) -> None:
    assert best_master(MASTERS, facts, {name: KtoolError("x") for name in problems}).name == best


MEMBERS = [
    MemberView(id="1", name="m1", healthy=True),
    MemberView(id="2", name="m2", healthy=True),
    MemberView(id="3", name="m3", learner=True),
]


def test_what_is_not_well_with_a_member() -> None:
    assert trouble(MEMBERS, "m1") == ""
    assert "without a vote" in trouble(MEMBERS, "m3")
    assert "no member" in trouble(MEMBERS, "m4")
    assert "does not answer" in trouble([MemberView(id="1", name="m1")], "m1")


def test_who_may_be_taken_out_of_a_lab() -> None:
    require_leave(MEMBERS, "m1")
    require_leave(MEMBERS, "m3")
    require_leave(MEMBERS, "m4")  # was taken out before: the rest of the removal goes on
    with pytest.raises(KtoolError, match="quorum"):
        require_leave([MEMBERS[0], MemberView(id="2", name="m2")], "m1")


class Host:
    """A connection to a master, on which `ktool etcd` says something, or that is lost."""

    def __init__(self, says: str | KtoolError) -> None:
        self._says = says

    def run(self, command: object, *, check: bool, timeout: float) -> Result:
        if isinstance(self._says, KtoolError):
            raise self._says
        return Result(0 if self._says else 1, self._says, "" if self._says else "no member of etcd answers")


@pytest.mark.parametrize("first", ["", KtoolError("m1: the connection is lost")])
async def test_another_master_is_asked_where_the_first_cannot_say(first: str | KtoolError) -> None:
    async def connected() -> None:
        pass

    said = msgspec.json.encode([*map(msgspec.to_builtins, MEMBERS)]).decode()
    lab = SimpleNamespace(
        lab=SimpleNamespace(masters=MASTERS, source="lab.yml"),
        master=MASTERS[0],
        master_connection=connected,
        connections={"m1": Host(first), "m2": Host(said)},
    )
    assert await members(cast("OpenLab", lab)) == MEMBERS
    lab.connections.pop("m2")
    with pytest.raises(KtoolError, match=r"cannot say|is lost"):
        await members(cast("OpenLab", lab))


@pytest.mark.parametrize(
    ("stopped", "names", "started"),
    [
        (("m1", "m2", "m3"), ("m1", "m2", "m3"), {"m1", "m2", "m3"}),
        (("m1", "m2"), ("m1", "m2"), {"m1", "m2"}),
        (("m1", "m2", "m3"), ("m1", "m3"), {"m1", "m3"}),  # another one may be a stranger's
        (("m1",), ("m1",), set()),  # its role starts it
        ((), ("m1", "m2"), set()),
    ],
)
async def test_members_that_were_stopped_are_started_before_one_waits_for_the_others(
    stopped: tuple[str, ...], names: tuple[str, ...], started: set[str]
) -> None:
    done: set[str] = set()

    class Machines:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, command: list[str], *, check: bool, timeout: float) -> Result:
            assert command[1:] == ["etcd", "start"]
            done.add(self.name)
            if self.name == "m1":
                raise KtoolError("the connection is lost")
            return Result(0, "started", "")

    lab = SimpleNamespace(
        lab=SimpleNamespace(masters=MASTERS),
        facts={
            m.name: RemoteFacts(has_master=True, services={"etcd": m.name not in stopped, "master": True})
            for m in MASTERS
        },
        connections={m.name: Machines(m.name) for m in MASTERS},
    )
    await start_stopped(cast(OpenLab, lab), names)
    assert done == started
