"""The etcd of a lab's masters, asked through the ktool on one of them that serves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence

import msgspec

from kube.errors import KtoolError
from provision.etcd.membership import Member, refusal
from provision.lab.open_lab import OpenLab
from provision.ssh.shell import Result

KTOOL = "/opt/ktool/current/bin/ktool"
# Three emulated masters that share two processors take a minute to load the program and ask all members.
ASK_SECONDS = 120.0
# The master that is asked waits by itself, for a cluster that has just changed.
REMOVE_SECONDS = 180.0
POLL_SECONDS = 1.0


class MemberView(Member, frozen=True, kw_only=True):
    """A member, and whether it answers well."""

    healthy: bool = False


async def members(open_lab: OpenLab) -> list[MemberView]:
    """The members, as the first master that can say it sees them. KtoolError if none can."""
    said = await _ask(open_lab, ["etcd", "members", "-o", "json"])
    try:
        return msgspec.json.decode(said.stdout, type=list[MemberView])
    except msgspec.MsgspecError:
        raise KtoolError(
            "the masters cannot say who is in etcd",
            found=" ".join((said.stderr or said.stdout).split())[-300:],
            wanted="a majority of masters that run",
            mend=f"ktool lab status -i {open_lab.lab.source}",
        ) from None


def require_leave(found: Sequence[MemberView], name: str) -> None:
    """KtoolError if the others could not go on without that member."""
    there = next((one for one in found if one.name == name), None)
    if there is None:
        return
    if refused := refusal(found, there, healthy={one.id for one in found if one.healthy}):
        raise refused


async def remove(open_lab: OpenLab, name: str) -> str:
    """Take a member out, by another master; what was done, empty if it was out already. KtoolError if refused."""
    said = await _ask(open_lab, ["etcd", "remove", name], but=name, timeout=REMOVE_SECONDS)
    if said.status != 0:
        text = " ".join((said.stderr or said.stdout).split())
        raise KtoolError(f"{name} cannot be taken out of etcd", found=text[-400:], wanted="an etcd without it")
    return "member of etcd removed" if "removed:" in said.stdout else ""


async def start_stopped(open_lab: OpenLab, names: Collection[str]) -> None:
    """Start all members of those masters that were stopped, side by side. The roles bring masters up one after the
    other, and the first would wait in vain for a majority. What fails here they will tell."""

    async def start(name: str) -> None:
        with contextlib.suppress(KtoolError):
            connection = open_lab.connections[name]
            await asyncio.to_thread(connection.run, [KTOOL, "etcd", "start"], check=False, timeout=ASK_SECONDS)

    stopped = []
    for machine in open_lab.lab.masters:
        facts = open_lab.facts.get(machine.name)
        if machine.name in names and facts is not None and facts.has_master and not facts.services.get("etcd"):
            stopped.append(machine.name)
    if len(stopped) > 1:  # a single one is started by its role
        await asyncio.gather(*map(start, stopped))


async def wait_healthy(open_lab: OpenLab, *, timeout: float) -> None:
    """Until all members are well; KtoolError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            silent = [one.name or one.id for one in await members(open_lab) if not one.healthy]
        except KtoolError as error:
            silent = [str(error)]
        if not silent:
            return
        if time.monotonic() > deadline:
            raise KtoolError(
                "etcd is not well",
                found=f"no answer of {', '.join(silent)}",
                wanted=f"all members healthy within {timeout:g} s",
                mend=f"ktool lab status -i {open_lab.lab.source}",
            )
        await asyncio.sleep(POLL_SECONDS)


def trouble(found: Sequence[MemberView], name: str) -> str:
    """What is not well with a master's member, in words; empty if nothing is."""
    there = next((one for one in found if one.name == name), None)
    if there is None:
        return "is no member of etcd"
    if there.learner:
        return "is a member of etcd without a vote: ktool lab create goes on with it"
    return "" if there.healthy else "has an etcd that does not answer"


async def _ask(open_lab: OpenLab, arguments: Sequence[str], *, but: str = "", timeout: float = ASK_SECONDS) -> Result:
    """What the first master says that can say something; KtoolError if no master is within reach."""
    await open_lab.master_connection()
    asked = [m for m in open_lab.lab.masters if m.name in open_lab.connections and m.name != but]
    said: Result | None = None
    failure: KtoolError | None = None
    for machine in sorted(asked, key=lambda m: m.name != open_lab.master.name):
        connection = open_lab.connections[machine.name]
        try:
            said = await asyncio.to_thread(connection.run, [KTOOL, *arguments], check=False, timeout=timeout)
        except KtoolError as error:  # it has just gone, or hangs: another one may know
            failure = error
            continue
        if said.stdout:
            return said
    if said is None:
        raise failure or KtoolError(
            "no other master can be reached",
            found=f"{len(asked)} of {len(open_lab.lab.masters)} masters",
            wanted="a master that is to go on",
        )
    return said
