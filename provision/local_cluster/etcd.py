"""The etcd of a machine that runs a master: begun, joined to the members of other masters, or taken out again.

`begin` is `up`'s on the first master. `join` is a further master's, in steps that each look first (provision.etcd.
membership decides): killed between any two, a second run goes on, and the cluster misses nothing, since a learner has
no vote. `leave` is `down`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.files import write_secret
from provision import machine, mounts
from provision.etcd import membership, packaged_service
from provision.etcd.client import EtcdClient, EtcdError, NoEtcd, NotAMaster
from provision.etcd.membership import Deed, Member, client_url, peer_url
from provision.etcd.settings import LOCAL, config_text, new_token
from provision.journal import Journal
from provision.local_cluster import steps, waiting
from provision.local_cluster.config import ETCD, LocalClusterConfig
from provision.progress import Progress, Step, step
from provision.services.service import ServiceSupervisor

# How long another machine's learner may take before it counts as given up.
PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 0.5
LEAVE_SECONDS = 30.0
# What etcd says for a while after a change: members must have been connected for some seconds before the next one.
_PASSING = ("unhealthy cluster", "not enough started members", "too many learner", "in sync with leader")
# What it says of a deed that was done already: by a request whose answer got lost, and which another member was asked.
_DONE = ("Peer URLs already exists", "can only promote a learner", "member not found")


async def begin(
    config: LocalClusterConfig, supervisor: ServiceSupervisor, journal: Journal, address: str, progress: Progress
) -> None:
    """Have this machine's etcd running: as it is, or as the first of a new cluster."""
    async with step(progress, ETCD, "etcd") as doing:
        if config.joining_file.exists():
            raise KtoolError(
                "this machine has begun to join a cluster as a master, and has not finished",
                found=str(config.joining_file),
                wanted="a master of that cluster",
                mend="run `ktool join --control-plane` (or `ktool lab create`) again, or `ktool down --no-leave`",
            )
        await asyncio.to_thread(packaged_service.set_aside, journal)
        renewed = await asyncio.to_thread(_certificates, config, address)
        made = not config.etcd_file.exists()
        if made:
            _write_settings(config, address)
        elif (there := str(_settings(config).get("initial-advertise-peer-urls", ""))) != peer_url(address):
            raise KtoolError(
                "this machine's etcd was made for another address",
                found=there,
                wanted=f"{peer_url(address)}, where the other masters would look for it now",
                mend="name the address that it had with --node-address; or take the machine out and let it join anew",
            )
        started = await asyncio.to_thread(_run, config, supervisor)
        await _serving(config, supervisor, doing)
        if _settings(config).get("initial-cluster-state") != "existing":
            # It has begun. Were its data lost, the same settings would begin an empty cluster under the same CA, and
            # nodes would end all pods of which that knows nothing; now etcd refuses to start instead.
            me = Member(id="0", name=config.node_name, peer_urls=(peer_url(address),))
            _write_settings(config, address, others=[me])
        doing.changed = made or started or renewed
        doing.result = f"{await _size(config)}, on {address}"


async def join(
    config: LocalClusterConfig,
    supervisor: ServiceSupervisor,
    journal: Journal,
    address: str,
    endpoints: Sequence[str],
    progress: Progress,
) -> None:
    """Have this machine's etcd be a voting member of the cluster whose other members are at `endpoints`.

    KtoolError if that does not work; a second call goes on.
    """
    async with step(progress, ETCD, "Membership in etcd") as doing:
        await asyncio.to_thread(packaged_service.set_aside, journal)
        await asyncio.to_thread(_certificates, config, address)
        others = [url for url in endpoints if url != client_url(address)]
        async with EtcdClient(others, config.etcd_certificates) as client:
            changed = await _Join(config, supervisor, client, address, doing).run()
        await _serving(config, supervisor, doing)
        doing.changed = changed
        doing.result = f"{await _size(config)}, on {address}"


class _Join:
    """One attempt to become a member."""

    def __init__(
        self,
        config: LocalClusterConfig,
        supervisor: ServiceSupervisor,
        client: EtcdClient,
        address: str,
        doing: Step,
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._client = client
        self._address = address
        self._doing = doing
        self._patience: waiting.Patience | None = None
        self._last = ""  # what etcd said when it refused last

    async def run(self) -> bool:
        """Do one deed after the other until this machine has its vote; True if there was anything to do."""
        began = time.monotonic()
        deadline = began + PATIENCE_SECONDS + self._config.ready_timeout
        changed = False
        while True:
            members = await self._members()
            running = (await asyncio.to_thread(self._supervisor.status, ETCD)).running
            todo = membership.next_deed(
                members,
                address=self._address,
                has_data=(self._config.etcd_dir / "member").exists(),
                running=running,
                patient=time.monotonic() - began < PATIENCE_SECONDS,
            )
            if todo.deed is Deed.DONE:
                return changed
            if time.monotonic() > deadline:
                raise KtoolError(
                    "this machine does not become a member of etcd",
                    found=f"{self._last or 'other members come and go'}; next it would {todo.deed}",
                    wanted=f"a vote in etcd within {deadline - began:g} s",
                    mend="`ktool etcd members` on a master shows them; run this again, it goes on",
                )
            changed = True
            try:
                await self._do(todo, members)
            except EtcdError as error:
                if not any(sign in error.found for sign in (*_PASSING, *_DONE)):
                    raise
                self._last = error.found
                self._doing.detail(f"waiting: {error.found}")
                await self._pause(error.found)

    async def _members(self) -> list[Member]:
        """The members. NoEtcd if nobody says so for a while: when one comes, the others have no leader for a moment."""
        deadline = time.monotonic() + self._config.ready_timeout
        while True:
            try:
                return await self._client.members()
            except NoEtcd:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def _do(self, todo: membership.Next, members: list[Member]) -> None:
        match todo.deed, todo.member:
            case Deed.ADD, _:
                self._doing.detail("is added as a learner")
                await self._client.add_learner(peer_url(self._address))
            case Deed.REMOVE, Member() as other:
                self._doing.detail(f"removing the member {other.name or other.id}, which is over")
                await self._client.remove(other.id)
            case Deed.WAIT, Member() as other:
                self._doing.detail(f"another machine is joining ({', '.join(other.peer_urls)}): waiting for it")
                await asyncio.sleep(2 * PAUSE_SECONDS)
            case Deed.CLEAR, _:
                self._doing.detail("removing the data of a membership that is over")
                await asyncio.to_thread(self._clear)
            case Deed.START, _:
                self._doing.detail("starting")
                if not (self._config.etcd_dir / "member").exists():
                    _write_settings(self._config, self._address, others=members)
                await asyncio.to_thread(_run, self._config, self._supervisor)
                await self._started()
            case Deed.PROMOTE, Member() as me:
                self._doing.detail("catching up")
                await self._client.promote(me.id)
            case deed, _:
                raise AssertionError(f"{deed} without a member")

    async def _started(self) -> None:
        """Until the others know this member by its name."""
        patience = waiting.Patience(self._config, self._supervisor, ETCD)
        while True:
            me = membership.own(await self._members(), address=self._address)
            if me is not None and me.started:
                return
            await patience.wait("the other members do not see it yet")

    async def _pause(self, found: str) -> None:
        if (await asyncio.to_thread(self._supervisor.status, ETCD)).running:
            self._patience = self._patience or waiting.Patience(self._config, self._supervisor, ETCD)
            await self._patience.wait(found)
        await asyncio.sleep(PAUSE_SECONDS)

    def _clear(self) -> None:
        if ETCD in self._supervisor.names():
            self._supervisor.stop(ETCD)
        mounts.remove_tree(self._config.etcd_dir)


# ---- starting, looking


async def start(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> bool:
    """Have this machine's member running where it was stopped, without waiting until it serves: of several that were
    stopped the first cannot, before a majority of them runs. True if it had to be started."""
    if ETCD not in supervisor.names() or (await asyncio.to_thread(supervisor.status, ETCD)).running:
        return False
    await asyncio.to_thread(supervisor.start, ETCD)
    return True


async def members(config: LocalClusterConfig, asked: Sequence[str] = (LOCAL,)) -> tuple[list[Member], set[str]]:
    """The members as this machine's sees them (or the first of `asked` that answers), and the ids of those that are
    healthy. NoEtcd if none answers."""
    async with EtcdClient(asked, config.etcd_certificates) as client:
        found = await client.members()
        return found, await client.healthy(found)


def endpoints(found: Sequence[Member]) -> tuple[str, ...]:
    """The client URLs of voting members."""
    return tuple(one.client_url for one in found if not one.learner and one.started)


# ---- leaving


async def require_leave(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> None:
    """KtoolError if the others could not do without this machine's member; before anything is changed."""
    found, healthy = await _look_to_leave(config, supervisor)
    me = _me(config, found)
    if me is None or (len(found) == 1 and me is found[0]):
        return  # the whole cluster goes, as with SQLite
    if refused := membership.refusal(found, me, healthy=healthy):
        raise refused


async def leave(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> list[str]:
    """Take this machine's member out of the cluster of the others, if there are others; in words."""
    found, _ = await _look_to_leave(config, supervisor)
    me = _me(config, found)
    others = [one for one in found if one is not me]
    if me is None or not others:
        return []
    return await _remove(config, me, others)


async def remove(config: LocalClusterConfig, name: str) -> list[str]:
    """Take another machine's member out. KtoolError if there is none of that name, or etcd would lose its quorum."""
    found, healthy = await members(config)
    there = next((one for one in found if name in (one.name, one.id)), None)
    if there is None:
        return []
    if refused := membership.refusal(found, there, healthy=healthy):
        raise refused
    return await _remove(config, there, [one for one in found if one is not there])


async def _remove(config: LocalClusterConfig, leaving: Member, others: Sequence[Member]) -> list[str]:
    deadline = time.monotonic() + LEAVE_SECONDS
    async with EtcdClient(endpoints(others), config.etcd_certificates) as client:
        while True:
            try:
                await client.remove(leaving.id)
            except EtcdError as error:
                if "not found" in error.found:
                    return []
                if not any(sign in error.found for sign in _PASSING) or time.monotonic() > deadline:
                    raise
            except NoEtcd:
                if time.monotonic() > deadline:
                    raise
            else:
                return [f"member {leaving.name or leaving.id} of etcd"]
            await asyncio.sleep(2 * PAUSE_SECONDS)


async def _look_to_leave(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> tuple[list[Member], set[str]]:
    """The members as this machine's sees them; it is started once more if it does not run.

    One that has not finished its join may have its vote already, or be a learner, which does not answer: then those
    that it was told of are asked.
    """
    deadline = time.monotonic() + LEAVE_SECONDS
    if not (await asyncio.to_thread(supervisor.status, ETCD)).running:
        await asyncio.to_thread(supervisor.start, ETCD)
    told_of = membership.others_of(str(_settings(config).get("initial-cluster", "")), name=config.node_name)
    asked = [LOCAL, *(told_of if config.joining_file.exists() else ())]
    while True:
        try:
            return await members(config, asked)
        except NoEtcd as error:
            if time.monotonic() > deadline or isinstance(error, NotAMaster):
                raise KtoolError(
                    "it cannot be told whether the other masters can do without this one",
                    found=error.found,
                    wanted="an answer of this machine's etcd",
                    mend="if the whole cluster goes, or this member was taken out already: ktool down --no-leave",
                ) from error
        await asyncio.sleep(PAUSE_SECONDS)


def _me(config: LocalClusterConfig, found: Sequence[Member]) -> Member | None:
    settings = _settings(config)
    name, url = settings.get("name", config.node_name), settings.get("initial-advertise-peer-urls")
    # one that was added and has not started yet has no name
    return next((one for one in found if one.name == name or url in one.peer_urls), None)


def own_name(config: LocalClusterConfig) -> str:
    """The name of this machine's member."""
    return str(_settings(config).get("name") or config.node_name)


def own_address(config: LocalClusterConfig) -> str:
    """Where other members reach this machine's; empty if it has none."""
    return urlsplit(str(_settings(config).get("initial-advertise-peer-urls", ""))).hostname or ""


def _settings(config: LocalClusterConfig) -> dict[str, Any]:
    """The settings that this machine's member was made with; empty if they cannot be read."""
    import yaml

    try:
        found = yaml.safe_load(config.etcd_file.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- the parts


def _certificates(config: LocalClusterConfig, address: str) -> bool:
    return config.etcd_certificates.ensure(name=config.node_name, address=address, clock=SystemClock())


def _write_settings(config: LocalClusterConfig, address: str, *, others: Sequence[Member] = ()) -> None:
    cluster = membership.initial_cluster(others, name=config.node_name, address=address) if others else ""
    config.etcd_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = config_text(
        name=config.node_name,
        address=address,
        data_dir=config.etcd_dir,
        certificates=config.etcd_certificates,
        cluster=cluster,
        token=new_token(),
    )
    write_secret(config.etcd_file, text)


def _run(config: LocalClusterConfig, supervisor: ServiceSupervisor) -> bool:
    program = machine.find_command("etcd")
    if not program:
        raise steps.missing_etcd()
    return steps.run_service(supervisor, config.etcd_spec(program=program))


async def _serving(config: LocalClusterConfig, supervisor: ServiceSupervisor, doing: Step) -> None:
    """Until the machine's own member serves, with a leader."""
    patience = waiting.Patience(config, supervisor, ETCD)
    async with EtcdClient([LOCAL], config.etcd_certificates) as client:
        while not await client.is_healthy(LOCAL):
            doing.detail("waiting for its health")
            await patience.wait("it does not say that it is healthy")


async def _size(config: LocalClusterConfig) -> str:
    async with EtcdClient([LOCAL], config.etcd_certificates) as client:
        voters = [one for one in await client.members() if not one.learner]
    return f"{len(voters)} member{'s' if len(voters) != 1 else ''}"
