"""Who belongs to an etcd cluster, what a machine that joins it does next, and who may leave: pure functions.

A machine joins as a learner (etcd: "Learner design"), which gets all data and has no vote: however it ends on its way,
killed between any two steps, the cluster needs no vote of it. Only once it has caught up is it promoted. What an
interrupted join left is found in the list of members and taken up again; etcd 3.4 bears one learner at a time, so one
that nobody takes up again is removed by whoever joins next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from kube.errors import KtoolError

CLIENT_PORT = 2379
PEER_PORT = 2380


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member as etcd knows it. `id` in decimal; a member without a `name` was added and never started."""

    id: str
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    learner: bool = False

    @property
    def started(self) -> bool:
        """Whether it has ever been there."""
        return bool(self.name)

    @property
    def client_url(self) -> str:
        """Where clients reach it: as it says, or as it will once it starts."""
        if self.client_urls:
            return self.client_urls[0]
        host = urlsplit(self.peer_urls[0]).hostname if self.peer_urls else ""
        return client_url(host or "") if host else ""


class Deed(StrEnum):
    """What a machine that joins does next."""

    ADD = "add"  # have it added as a learner
    REMOVE = "remove"  # a member that is in the way
    WAIT = "wait"  # for another machine that is joining
    CLEAR = "clear"  # remove data of a membership that is over
    START = "start"  # start the member
    PROMOTE = "promote"  # give it its vote
    DONE = "done"


class Next(msgspec.Struct, frozen=True):
    """A deed, and the member that it concerns, if it concerns one."""

    deed: Deed
    member: Member | None = None


def client_url(address: str) -> str:
    """Where clients reach the member on a machine."""
    return f"https://{_host(address)}:{CLIENT_PORT}"


def peer_url(address: str) -> str:
    """Where other members reach the member on a machine."""
    return f"https://{_host(address)}:{PEER_PORT}"


def own(members: Collection[Member], *, address: str) -> Member | None:
    """The member on the machine with that address."""
    return next((one for one in members if peer_url(address) in one.peer_urls), None)


def next_deed(members: Sequence[Member], *, address: str, has_data: bool, running: bool, patient: bool = True) -> Next:
    """What the machine at `address` does next to become a voting member.

    `has_data`: it has an etcd's data; `running`: its etcd runs; `patient`: another machine's learner may still be on
    its way (who waited long enough is not patient any more).
    """
    me = own(members, address=address)
    if me is not None:
        if not has_data and me.started:
            return Next(Deed.REMOVE, me)  # the machine was made anew, its vote belongs to data that is gone
        if not running:
            # A member that starts for the first time must know all others by name.
            strangers = [one for one in members if one is not me and not one.started]
            if strangers and not has_data:
                return Next(Deed.REMOVE, strangers[0])
            return Next(Deed.START, me)
        return Next(Deed.PROMOTE, me) if me.learner or not me.started else Next(Deed.DONE, me)
    if has_data:
        return Next(Deed.CLEAR)
    in_the_way = [one for one in members if one.learner or not one.started]
    if in_the_way:
        return Next(Deed.WAIT if patient else Deed.REMOVE, in_the_way[0])
    return Next(Deed.ADD)


def initial_cluster(members: Collection[Member], *, name: str, address: str) -> str:
    """etcd's option of that name for a member that joins: all members, itself under its own name."""
    me = peer_url(address)
    urls = [(name if me in one.peer_urls else one.name, url) for one in members for url in one.peer_urls]
    return ",".join(f"{whose}={url}" for whose, url in urls)


def others_of(cluster: str, *, name: str) -> list[str]:
    """Client URLs of the others in an option `initial-cluster`, as `initial_cluster` writes it."""
    pairs = (one.partition("=") for one in cluster.split(",") if one)
    hosts = (urlsplit(url).hostname for whose, _, url in pairs if whose != name)
    return [client_url(host) for host in hosts if host]


def quorum(voters: int) -> int:
    """How many of the voting members must agree."""
    return voters // 2 + 1


def refusal(members: Collection[Member], leaving: Member, *, healthy: Collection[str]) -> KtoolError | None:
    """Why a member cannot be taken out; None if it can. `healthy` are the ids of members that answer well."""
    voters = [one for one in members if not one.learner]
    if leaving.learner:
        return None
    if len(voters) == 1:
        return KtoolError(
            f"{leaving.name or leaving.id} is the only master: the cluster's state is there and nowhere else",
            found="1 member of etcd",
            wanted="another master that goes on with it",
            mend="the whole cluster goes with `ktool lab destroy`, or on the machine: ktool down --no-leave",
        )
    left = [one for one in voters if one.id != leaving.id]
    well = [one for one in left if one.id in healthy]
    if len(well) >= quorum(len(left)):
        return None
    silent = sorted(one.name or one.id for one in left if one.id not in healthy)
    return KtoolError(
        f"without {leaving.name or leaving.id} etcd would lose its quorum, and the cluster with it",
        found=f"of the others, {len(well)} of {len(left)} are well (not: {', '.join(silent)})",
        wanted=f"{quorum(len(left))} that are",
        mend=f"mend {silent[0]}, or take that one out instead",
    )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
