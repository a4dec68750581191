"""`lab upgrade`: one machine after the other gets this ktool, and its pods move away while it does.

    for each machine, masters first:  drain → roles → Ready → uncordon → next

Of several masters, one is stopped only while all the others serve, and what is asked meanwhile is asked of those.

The first failure ends it, with that node back in service as far as it goes and the rest untouched: a lab in which one
node is broken is better than one in which all are. Running it again goes on with what is not upgraded yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kube.client import Client
from kube.errors import KtoolError
from kube.status import ApiError
from provision import lock
from provision.bundle.archive import Archive, ArchiveRole
from provision.inventory.lab import Lab, Machine, Store
from provision.lab import apply, cluster, drain, etcd
from provision.lab.create import wants
from provision.lab.errors import machine_errors
from provision.lab.events import LabJournal, LabProgress, LabStep, doing
from provision.lab.open_lab import NO_PASSWORDS, OpenLab, Passwords, installed, opened
from provision.lab.plan import Wanted, differences
from provision.lab_state import LabState

# Annotation of a Node that an upgrade has cordoned.
CORDONED = "ktool.io/cordoned-by-upgrade"
# How long another master may take to serve before one is stopped: it may have been restarted a moment ago.
OTHERS_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeOptions:
    """How to upgrade: seconds for a drain and until a node is Ready again; `force` loses pods without a controller."""

    drain_timeout: float = 300.0
    ready_timeout: float = 240.0
    force: bool = False
    only: frozenset[str] = frozenset()
    passwords: Passwords = NO_PASSWORDS


@dataclass(slots=True)
class Upgraded:
    """What happened: machines that were upgraded, those that needed nothing, where it stopped, and what was left."""

    upgraded: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)
    failed: str = ""
    error: KtoolError | None = None
    untouched: list[str] = field(default_factory=list)


def order(machines: Collection[Machine], names: Collection[str]) -> list[Machine]:
    """The machines of those names: masters first (a node's agent may be older than its master, never newer:
    Kubernetes, "Version Skew Policy"), otherwise as the inventory has them."""
    return sorted((m for m in machines if m.name in names), key=lambda machine: not machine.is_master)


async def upgrade(
    lab: Lab,
    state: LabState,
    archives: Mapping[ArchiveRole, Archive],
    progress: LabProgress = lambda event: None,
    options: UpgradeOptions = UpgradeOptions(),
) -> Upgraded:
    """Bring every machine to this ktool, one at a time. KtoolError, with nothing changed, if a machine cannot be
    reached or there is no cluster; what stops it later is in the result."""
    with lock.held(state.path):
        async with opened(
            lab, state, layer=archives[ArchiveRole.CONTROL].path, passwords=options.passwords
        ) as open_lab:
            await open_lab.look_at_all(await open_lab.find())
            wanted_names = options.only or {machine.name for machine in lab.machines}
            for name in sorted(wanted_names):
                if name not in open_lab.facts:
                    raise open_lab.problems.get(name) or KtoolError(
                        f"{name} does not run", wanted="a lab that is up", mend=f"ktool lab create -i {lab.source}"
                    )
            if not state.kubeconfig.exists():
                raise KtoolError(
                    "there is no cluster yet", found=f"no {state.kubeconfig}", mend=f"ktool lab create -i {lab.source}"
                )
            return await _Upgrade(open_lab, archives, progress, options).run()


class _Upgrade:
    def __init__(
        self,
        open_lab: OpenLab,
        archives: Mapping[ArchiveRole, Archive],
        progress: LabProgress,
        options: UpgradeOptions,
    ) -> None:
        self._open = open_lab
        self._archives = archives
        self._progress = progress
        self._options = options
        self._journal = LabJournal(open_lab.state.journal)
        self._result = Upgraded()

    async def run(self) -> Upgraded:
        result, all_wants = self._result, wants(self._open, self._archives)
        names = self._options.only or set(all_wants)
        machines = order(self._open.lab.machines, names)
        for number, machine in enumerate(machines):
            missing = differences(installed(self._open.facts[machine.name]), all_wants[machine.name])
            # Its own API server may not come up again: then somebody else has to put its node back into service.
            self._open.passed_over = machine.name
            try:
                with machine_errors(machine.name):
                    if not missing:
                        # An upgrade that was killed may have finished all but this.
                        await self._uncordon(machine)
                        result.current.append(machine.name)
                        continue
                    await self._one(machine, all_wants, missing)
            except KtoolError as error:
                result.failed, result.error = machine.name, error
                result.untouched = [m.name for m in machines[number + 1 :]]
                return result
            result.upgraded.append(machine.name)
        return result

    async def _one(self, machine: Machine, all_wants: Mapping[str, Wanted], missing: list[str]) -> None:
        try:
            if machine.is_master:
                await self._require_others(machine)
            if machine.runs_agent:
                await self._drain(machine)
            ended = await apply.apply(
                self._open,
                all_wants,
                self._archives,
                {machine.name: missing},
                progress=self._progress,
                journal=self._journal,
            )
            if (error := ended[machine.name].error) is not None:
                raise error
            if machine.runs_agent:
                await self._ready(machine)
            if machine.is_master and self._open.lab.store is Store.ETCD:
                # The next one is stopped only when this one has its vote again.
                await etcd.wait_healthy(self._open, timeout=self._options.ready_timeout)
        except BaseException:
            # What went wrong is to be told, not that its node could not be put back besides.
            with contextlib.suppress(KtoolError, ApiError, ConnectionError, TimeoutError):
                await self._uncordon(machine)
            raise
        await self._uncordon(machine)

    async def _require_others(self, machine: Machine) -> None:
        """KtoolError if another master does not serve, or etcd is not whole: then this one is needed."""
        others = [other for other in self._open.lab.masters if other.name != machine.name]
        if not others:
            return
        for other in others:
            connection = self._open.connections.get(other.name)
            problem = str(self._open.problems.get(other.name) or "it cannot be reached")
            if connection is not None:
                problem = await cluster.wait_serving(
                    self._open.state, connection, port=self._open.lab.api_port, timeout=OTHERS_SECONDS
                )
            if problem:
                raise KtoolError(
                    f"the API server on {other.name} does not serve: {machine.name} is needed meanwhile",
                    found=problem,
                    wanted="all other masters serving while one is upgraded",
                    mend=f"ktool node why {other.name} -i {self._open.lab.source}; then the same command again",
                )
        if self._open.lab.store is Store.ETCD:
            await etcd.wait_healthy(self._open, timeout=OTHERS_SECONDS)

    async def _client(self) -> Client:
        connection = await self._open.master_connection()
        return await cluster.connect(self._open.state, connection, port=self._open.lab.api_port)

    async def _drain(self, machine: Machine) -> None:
        """Move the pods away. A node that took pods before is marked, so that it is put back whoever finds it."""
        client = await self._client()
        try:
            views = await cluster.nodes(client)
            others = [v for v in views.values() if v.name != machine.name and v.takes_pods]
            with doing(self._progress, self._journal, machine.name, LabStep.DRAIN) as step:
                if machine.name not in views:
                    step.unchanged("has no node")
                elif not others:
                    step.unchanged("there is no other node for its pods: they go on here")
                else:
                    if views[machine.name].schedulable:
                        await cluster.annotate(client, machine.name, CORDONED, "true")
                    gone = await drain.drain(
                        client,
                        machine.name,
                        timeout=self._options.drain_timeout,
                        force=self._options.force,
                        report=step.report,
                    )
                    step.result = f"{len(gone)} pods moved away"
        finally:
            await client.close()

    async def _ready(self, machine: Machine) -> None:
        client = await self._client()
        try:
            with doing(self._progress, self._journal, machine.name, LabStep.READY) as step:
                missing = await cluster.wait_ready(
                    client,
                    [machine.name],
                    timeout=self._options.ready_timeout,
                    on_change=lambda view: step.report(view.why or view.status),
                )
                if missing:
                    raise KtoolError(
                        f"node {machine.name} does not become Ready after its upgrade",
                        found=missing[machine.name].why,
                        wanted=f"Ready within {self._options.ready_timeout:g} s",
                        mend=f"ktool node why {machine.name} -i {self._open.lab.source}",
                    )
                step.result = "node is Ready"
        finally:
            await client.close()

    async def _uncordon(self, machine: Machine) -> None:
        """Have the node take pods again, if it was an upgrade that had it take none."""
        if not machine.runs_agent:
            return
        client = await self._client()
        try:
            async with asyncio.timeout(60):
                if await cluster.annotation(client, machine.name, CORDONED) == "true":
                    await drain.cordon(client, machine.name, unschedulable=False)
                    await cluster.annotate(client, machine.name, CORDONED, None)
        finally:
            await client.close()
        self._journal.end(machine.name, LabStep.DRAIN)
