from __future__ import annotations

import pytest

from provision.etcd.client import member, passing
from provision.etcd.membership import Deed, Member, initial_cluster, next_deed, others_of, quorum, refusal


def a(number: int, *, started: bool = True, learner: bool = False) -> Member:
    address = f"192.0.2.{number}"
    return Member(
        id=str(number),
        name=f"m{number}" if started else "",
        peer_urls=(f"https://{address}:2380",),
        client_urls=(f"https://{address}:2379",) if started else (),
        learner=learner,
    )


ME = "192.0.2.3"


@pytest.mark.parametrize(
    ("members", "has_data", "running", "patient", "deed", "whose"),
    [
        # the way of a join, from its first step to its last
        ([a(1)], False, False, True, Deed.ADD, ""),
        ([a(1), a(3, started=False, learner=True)], False, False, True, Deed.START, "3"),
        ([a(1), a(3, started=False, learner=True)], True, False, True, Deed.START, "3"),
        ([a(1), a(3, started=False, learner=True)], True, True, True, Deed.PROMOTE, "3"),
        ([a(1), a(3, learner=True)], True, True, True, Deed.PROMOTE, "3"),
        ([a(1), a(3)], True, True, True, Deed.DONE, "3"),
        # the machine booted anew, its member did not come with it
        ([a(1), a(3)], True, False, True, Deed.START, "3"),
        # and does so beside one that is just joining, whom it need not know
        ([a(1), a(2, started=False, learner=True), a(3)], True, False, True, Deed.START, "3"),
        # the machine was made anew: its vote belongs to data that is gone
        ([a(1), a(2), a(3)], False, False, True, Deed.REMOVE, "3"),
        # it was taken out, and has data of that time
        ([a(1), a(2)], True, True, True, Deed.CLEAR, ""),
        # another machine is on its way, or gave up
        ([a(1), a(2, learner=True)], False, False, True, Deed.WAIT, "2"),
        ([a(1), a(2, started=False, learner=True)], False, False, True, Deed.WAIT, "2"),
        ([a(1), a(2, started=False, learner=True)], False, False, False, Deed.REMOVE, "2"),
        # one that was added without ever starting cannot be named in the settings of ours
        ([a(1), a(2, started=False), a(3, started=False, learner=True)], False, False, True, Deed.REMOVE, "2"),
    ],
)
def test_what_a_machine_that_joins_does_next(
    members: list[Member], has_data: bool, running: bool, patient: bool, deed: Deed, whose: str
) -> None:
    found = next_deed(members, address=ME, has_data=has_data, running=running, patient=patient)
    assert (found.deed, found.member.id if found.member else "") == (deed, whose)


def test_all_members_by_name_for_one_that_joins() -> None:
    members = [a(1), a(2), a(3, started=False, learner=True)]
    assert initial_cluster(members, name="me", address=ME) == (
        "m1=https://192.0.2.1:2380,m2=https://192.0.2.2:2380,me=https://192.0.2.3:2380"
    )


def test_whom_a_member_was_told_of() -> None:
    cluster = initial_cluster([a(1), a(2), a(3, started=False)], name="me", address=ME)
    assert others_of(cluster, name="me") == ["https://192.0.2.1:2379", "https://192.0.2.2:2379"]
    assert others_of("me=https://[2001:db8::3]:2380,m1=https://[2001:db8::1]:2380", name="me") == [
        "https://[2001:db8::1]:2379"
    ]
    assert others_of("", name="me") == []


def test_a_quorum() -> None:
    assert [quorum(n) for n in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("voters", "healthy", "leaving", "refused"),
    [
        ((1, 2, 3), "123", 3, ""),
        ((1, 2, 3), "12", 3, ""),  # the one that is gone
        ((1, 2, 3), "13", 3, "1 of 2 are well"),  # one of the two that are left
        ((1, 2), "12", 2, ""),
        ((1, 2), "2", 2, "0 of 1 are well"),
        ((1,), "1", 1, "1 member of etcd"),
        ((1, 2, 3, 4, 5), "123", 5, ""),
        ((1, 2, 3, 4, 5), "123", 1, "2 of 4 are well"),
    ],
)
def test_who_may_leave(voters: tuple[int, ...], healthy: str, leaving: int, refused: str) -> None:
    members = [a(number) for number in voters]
    error = refusal(members, a(leaving), healthy=set(healthy))
    assert refused in str(error) if refused else error is None


def test_a_learner_may_always_leave() -> None:
    gone = a(2, learner=True)
    assert refusal([a(1), gone], gone, healthy=set()) is None


def test_what_etcd_says() -> None:
    found = member({"ID": "9372538179322589801", "peerURLs": ["https://192.0.2.2:2380"], "isLearner": True})
    assert found == Member(id="9372538179322589801", peer_urls=("https://192.0.2.2:2380",), learner=True)
    assert not found.started
    assert found.client_url == "https://192.0.2.2:2379"
    assert passing("etcdserver: no leader")
    assert not passing("etcdserver: member not found")
