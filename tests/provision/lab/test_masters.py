"""Which of several masters is asked, and what is said of their etcd."""

from __future__ import annotations

import pytest

from kube.errors import KtoolError
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Machine, ProviderName, Role
from provision.lab.etcd import MemberView, require_leave, trouble
from provision.lab.open_lab import best_master

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
