"""`lab create`: from whatever there is to the lab that the inventory describes.

    runtime archive ─▶ images, networks ─▶ each machine: made ─▶ reached ─▶ looked at ┐
                                                                                       ├─▶ checked together
    nodes Ready ◀─ kubeconfig ◀─ Ansible's roles on those that are not as they should ◀┘

Every step looks before it acts. So a second run does nothing but look, and one after a crash does what is missing.
A machine that fails is left behind with the reason; the others go on (workers cannot without their master).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kube.client import Client
from kube.errors import KtoolError
from kube.status import ApiError
from provision import lock
from provision.ansible.logins import logged_in
from provision.bundle.archive import Archive, ArchiveRole
from provision.facts.facts import RemoteFacts
from provision.inventory.lab import Lab, Machine, Role, Store
from provision.lab import apply, cluster, etcd
from provision.lab.errors import machine_errors
from provision.lab.events import LabJournal, LabProgress, LabStep, doing
from provision.lab.open_lab import NO_PASSWORDS, OpenLab, Passwords, installed, opened
from provision.lab.ownership import claim, pin_of, stranger
from provision.lab.plan import MAKING, Action, Mark, Seen, Wanted, deeds, differences, plan, wanted
from provision.lab_state import LabState
from provision.preflight.lab import check_lab
from provision.preflight.machine import Finding, Severity
from provision.providers.provider import Found, MachineState
from provision.ssh.keys import ensure_key


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """How a lab is made. `boot_timeout` and `ready_timeout` in seconds; `reapply` runs the roles on every machine,
    `only` names the machines to bother with (empty: all)."""

    boot_timeout: float = 420.0
    ready_timeout: float = 240.0
    reapply: bool = False
    only: frozenset[str] = frozenset()
    passwords: Passwords = NO_PASSWORDS


class Outcome(StrEnum):
    """How it went with a machine."""

    READY = "ready"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    LEFT_OUT = "left out"


@dataclass(slots=True)
class MachineResult:
    """A machine at the end: what was done, and what stopped it (with all findings of the preflight)."""

    name: str
    outcome: Outcome = Outcome.UNCHANGED
    did: list[str] = field(default_factory=list)
    error: KtoolError | None = None
    findings: tuple[Finding, ...] = ()

    def fail(self, error: KtoolError, *, outcome: Outcome = Outcome.FAILED) -> None:
        """Note what stopped this machine; the first reason counts."""
        if self.error is None:
            self.error, self.outcome = error, outcome


@dataclass(frozen=True, slots=True)
class LabResult:
    """The end of a run. `kubeconfig` is None if there is no cluster."""

    machines: tuple[MachineResult, ...]
    kubeconfig: Path | None
    server: str
    seconds: float
    phases: Mapping[str, float]

    @property
    def failed(self) -> list[MachineResult]:
        """Machines that are not as they should be."""
        return [one for one in self.machines if one.error is not None]

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return any(one.did for one in self.machines)


async def create(
    lab: Lab,
    state: LabState,
    archives: Mapping[ArchiveRole, Archive],
    progress: LabProgress = lambda event: None,
    options: CreateOptions = CreateOptions(),
) -> LabResult:
    """Have the lab as the inventory says. What stops a machine is in the result; KtoolError for what stops all."""
    with lock.held(state.path):
        state.create()
        state.claim(lab.source)
        await asyncio.to_thread(ensure_key, state.identity, comment=f"ktool lab {lab.name}")
        layer = archives[ArchiveRole.CONTROL].path
        async with opened(lab, state, layer=layer, passwords=options.passwords) as open_lab:
            return await _Creation(open_lab, archives, progress, options).run()


async def plan_create(
    lab: Lab,
    state: LabState,
    archives: Mapping[ArchiveRole, Archive],
    options: CreateOptions = CreateOptions(),
) -> list[Action]:
    """What `create` would do with these options; looks at everything that is there and changes nothing."""
    async with opened(lab, state, layer=archives[ArchiveRole.CONTROL].path, passwords=options.passwords) as open_lab:
        found = await open_lab.find()
        if state.identity.exists():
            await open_lab.look_at_all(found)
        actions = plan(lab, await seen(open_lab, found), wants(open_lab, archives))
        return narrowed(lab, actions, options, reached=set(open_lab.facts))


def concerned(lab: Lab, only: Collection[str]) -> tuple[Machine, ...]:
    """The machines that `create` goes over if it is limited to some (none named: all)."""
    # A load balancer's address is among the master's settings: without it they would change back and forth.
    return tuple(m for m in lab.machines if not only or m.name in only or m.is_master or Role.LOAD_BALANCER in m.roles)


def narrowed(lab: Lab, actions: Sequence[Action], options: CreateOptions, *, reached: Collection[str]) -> list[Action]:
    """A plan for the machines that `create` goes over, with what `reapply` adds on those that look well."""
    names = [machine.name for machine in concerned(lab, options.only)]
    found = [one for one in actions if one.machine in names or not options.only]
    if options.reapply:
        busy = {one.machine for one in found if one.step is LabStep.INSTALL}
        found += [
            Action(name, LabStep.INSTALL, Mark.CHANGE, "go over it again")
            for name in names
            if name in reached and name not in busy
        ]
    return found


def runtimes(machine: Machine, archives: Mapping[ArchiveRole, Archive]) -> tuple[str, ...]:
    """Keys of the archives that serve a machine. Those that ktool makes share one image, which has the master's baked
    in; of the others, workers get only what an agent needs."""
    control, agent = archives[ArchiveRole.CONTROL].key, archives[ArchiveRole.AGENT].key
    if machine.is_master:
        return (control,)
    return (control, agent) if machine.provider in MAKING else (agent, control)


def wants(open_lab: OpenLab, archives: Mapping[ArchiveRole, Archive]) -> dict[str, Wanted]:
    """The wanted settings of every machine that has been reached."""
    lab = open_lab.lab
    balancers = [m for m in lab.balancers if m.name in open_lab.facts]
    endpoints = {open_lab.endpoints[b.name].address for b in balancers} - {""}
    found = {}
    for machine in lab.machines:
        if machine.name in open_lab.facts:
            endpoint = open_lab.endpoints[machine.name].address
            found[machine.name] = wanted(
                lab,
                machine,
                runtimes=runtimes(machine, archives),
                address=open_lab.address(machine),
                tls_sans=[*(open_lab.address(b) for b in balancers), *endpoints, *([endpoint] if endpoint else [])],
                server=open_lab.balanced_server,
                backends=list(open_lab.backends.values()),
            )
    return found


async def seen(open_lab: OpenLab, found: Mapping[str, Found]) -> dict[str, Seen]:
    """Machines as provider, machine and cluster show them; reached ones only are known from inside."""
    views: Mapping[str, cluster.NodeView] = {}
    master = open_lab.connections.get(open_lab.master.name)
    if master is not None and open_lab.state.kubeconfig.exists():
        try:
            async with cluster.connected(open_lab.state, master, port=open_lab.lab.api_port) as client:
                views = await cluster.nodes(client)
        except (KtoolError, ApiError, ConnectionError, TimeoutError) as error:
            facts = open_lab.facts.get(open_lab.master.name)
            if facts is None or facts.services.get("master"):  # one that was stopped is no riddle: it will be started
                told = KtoolError(f"the API server does not answer: {error}")
                open_lab.problems.setdefault(open_lab.master.name, told)
    result = {}
    for name, one in found.items():
        facts = open_lab.facts.get(name)
        problem = open_lab.problems.get(name)
        result[name] = Seen(
            one,
            installed(facts) if facts else None,
            str(problem) if problem else "",
            views[name].status if name in views else "",
        )
    return result


class _Creation:
    """One run of `create`."""

    def __init__(
        self,
        open_lab: OpenLab,
        archives: Mapping[ArchiveRole, Archive],
        progress: LabProgress,
        options: CreateOptions,
    ) -> None:
        self._open = open_lab
        self._lab = open_lab.lab
        self._archives = archives
        self._progress = progress
        self._options = options
        self._journal = LabJournal(open_lab.state.journal)
        self._results = {m.name: MachineResult(m.name) for m in self._machines}
        self._phases: dict[str, float] = {}

    @property
    def _machines(self) -> tuple[Machine, ...]:
        return concerned(self._lab, self._options.only)

    def _well(self) -> list[Machine]:
        return [machine for machine in self._machines if self._results[machine.name].error is None]

    async def run(self) -> LabResult:
        began = last = time.monotonic()

        def phase(name: str) -> None:
            nonlocal last
            now = time.monotonic()
            self._phases[name], last = now - last, now

        for left in self._journal.open_steps:
            when = time.strftime("%H:%M", time.localtime(left.since))
            with doing(self._progress, None, left.machine, LabStep(left.step)) as step:
                step.unchanged(f"was interrupted at {when}; takes it up again")
        found = await self._open.find()
        await self._prepare(found)
        phase("prepare")
        boots = any(found[machine.name].state is not MachineState.RUNNING for machine in self._machines)
        loaded = [asyncio.to_thread(load)] if boots else []
        reached = (self._make_and_reach(machine, found[machine.name]) for machine in self._machines)
        await asyncio.gather(*reached, *loaded)
        phase("machines")
        await self._check()
        phase("check")
        self._leave_out_without_master()
        await self._install()
        phase("install")
        server = await self._ready()
        phase("ready")
        self._close_journal()
        state = self._open.state
        return LabResult(
            tuple(self._results.values()),
            state.kubeconfig if state.kubeconfig.exists() else None,
            server,
            time.monotonic() - began,
            self._phases,
        )

    def _close_journal(self) -> None:
        """What was under way on a machine that is as it should be is over, whoever began it."""
        for name, result in self._results.items():
            if result.error is None:
                self._journal.forget(name)
        if not any(result.error for result in self._results.values()):
            self._journal.forget("")

    async def _prepare(self, found: Mapping[str, Found]) -> None:
        """Images and networks, for the providers that have a machine to make."""
        for name, provider in self._open.providers.items():
            mine = [m for m in self._machines if m.provider is name]
            if name not in MAKING or all(found[m.name].state is MachineState.RUNNING for m in mine):
                continue
            try:
                with (
                    machine_errors("images and networks"),
                    doing(self._progress, self._journal, "", LabStep.IMAGE) as step,
                ):
                    step.changed = await asyncio.to_thread(provider.prepare, mine, step.report)
                    step.result = "images and networks are there"
            except KtoolError as error:
                for machine in mine:
                    self._results[machine.name].fail(error)

    async def _make_and_reach(self, machine: Machine, found: Found) -> None:
        result = self._results[machine.name]
        if result.error is not None:
            return
        try:
            with machine_errors(machine.name):
                await self._make(machine, found, result)
            with (
                machine_errors(machine.name),
                doing(self._progress, self._journal, machine.name, LabStep.REACH) as step,
            ):
                facts = await self._open.reach(machine, step.report, timeout=self._options.boot_timeout)
                step.unchanged(f"{facts.os_id} {facts.os_version}, {self._open.address(machine)}")
        except KtoolError as error:
            result.fail(error)
            self._open.problems[machine.name] = error

    async def _make(self, machine: Machine, found: Found, result: MachineResult) -> None:
        runs = found.state is MachineState.RUNNING
        if runs:
            for difference in found.differences:
                with doing(self._progress, None, machine.name, LabStep.CREATE) as step:
                    step.warning(f"differs from the inventory: {difference}")
                    step.unchanged("runs")
            # One that runs may have been left half made by a run that was killed.
            if (machine.name, LabStep.CREATE) not in {(left.machine, left.step) for left in self._journal.open_steps}:
                return
        with doing(self._progress, self._journal, machine.name, LabStep.CREATE) as step:
            provider = self._open.provider(machine)
            step.changed = await asyncio.to_thread(provider.create, machine, step.report)
            if runs:
                step.result = "finished what was half made" if step.changed else "runs"
            else:
                step.result = "made and started" if found.state is not MachineState.STOPPED else "started"
            if step.changed:
                result.did.append(step.result)

    async def _check(self) -> None:
        """The preflight, over all machines that were reached; those with errors are left out."""
        reached = {machine.name: self._open.facts[machine.name] for machine in self._well()}
        if not reached:
            return
        connections = {name: self._open.connections[name] for name in reached}
        lab_id, pin = self._open.state.id, pin_of(self._open.state.kubeconfig)
        findings = await asyncio.to_thread(check_lab, self._lab, reached, connections, nodes=await self._node_ids())
        for machine in self._well():
            result = self._results[machine.name]
            result.findings = tuple(findings.get(machine.name, ()))
            errors = [finding for finding in result.findings if finding.severity is Severity.ERROR]
            try:
                with doing(self._progress, None, machine.name, LabStep.CHECK) as step:
                    if foreign := stranger(machine.name, reached[machine.name], lab_id=lab_id, ca_pin=pin):
                        raise foreign
                    for finding in result.findings:
                        if finding not in errors:
                            step.warning(f"{finding.what} (found: {finding.found}; wanted: {finding.wanted})")
                    if errors:
                        raise PreflightErrors(errors)
                    step.unchanged("fit")
            except KtoolError as error:
                result.fail(error, outcome=Outcome.LEFT_OUT)
                self._open.problems[machine.name] = error

    async def _node_ids(self) -> dict[str, str]:
        """The machine ids of the cluster's Nodes, as far as there is a cluster that answers."""
        master = self._open.connections.get(self._open.master.name)
        if master is None or not self._open.state.kubeconfig.exists():
            return {}
        try:
            async with cluster.connected(self._open.state, master, port=self._lab.api_port) as client:
                return {name: view.machine_id for name, view in (await cluster.nodes(client)).items()}
        except (KtoolError, ApiError, ConnectionError, TimeoutError):
            return {}  # its API server is down: what this run is about to mend

    def _leave_out_without_master(self) -> None:
        failed = [m for m in self._lab.masters if m.name in self._results and self._results[m.name].error]
        if not failed:
            return
        first = failed[0].name
        if len(failed) == len(self._lab.masters):
            wanted, mend = "a master that works", "mend the master, then run the same command again"
        elif self._may_begin_another(failed):
            wanted = "the master that has the cluster: another one would begin a cluster of its own"
            mend = f"mend {first}, then run the same command again; or ktool lab destroy -i {self._lab.source}"
        else:
            return
        for machine in self._well():
            self._results[machine.name].fail(
                KtoolError(
                    "there is no master to join",
                    found=f"{first}: {self._results[first].error}",
                    wanted=wanted,
                    mend=mend,
                ),
                outcome=Outcome.LEFT_OUT,
            )

    def _may_begin_another(self, failed: Sequence[Machine]) -> bool:
        """Whether there may be a cluster on masters that are out of reach, and none on those within."""
        if any(facts.has_master for name, facts in self._open.facts.items() if name in self._master_names()):
            return False
        begun = {left.machine for left in self._journal.open_steps if left.step == LabStep.INSTALL}
        unseen = {machine.name for machine in failed if machine.name not in self._open.facts}
        return bool(unseen) and (self._open.state.kubeconfig.exists() or bool(unseen & begun))

    def _master_names(self) -> set[str]:
        return {machine.name for machine in self._lab.masters}

    async def _install(self) -> None:
        """Ansible's roles, on the machines that are not as they should be."""
        all_wants = wants(self._open, self._archives)
        todo: dict[str, list[str]] = {}
        for machine in self._well():
            missing = differences(installed(self._open.facts[machine.name]), all_wants[machine.name])
            if missing or self._options.reapply:
                todo[machine.name] = missing
            else:
                with doing(self._progress, None, machine.name, LabStep.INSTALL) as step:
                    step.unchanged("as it should be")
        if not todo:
            return
        if self._lab.store is Store.ETCD:
            await etcd.start_stopped(self._open, todo)
        wanted_hosts = [host for host in apply.hosts(self._open, all_wants) if host.name in todo]
        with logged_in(wanted_hosts, limit=self._lab.forks) as sockets:
            for name, claimed in zip(list(todo), await asyncio.gather(*map(self._claim, todo)), strict=True):
                if not claimed:
                    del todo[name]
            ended = await apply.apply(
                self._open,
                all_wants,
                self._archives,
                todo,
                progress=self._progress,
                journal=self._journal,
                sockets=sockets,
            )
        for name, one in ended.items():
            result = self._results[name]
            result.did += one.did
            if one.error is not None:
                result.fail(one.error)

    async def _claim(self, name: str) -> bool:
        """Whether the machine is this lab's from now on; why not is its result."""
        try:
            with machine_errors(name):
                shell, facts = self._open.connections[name], self._open.facts[name]
                await asyncio.to_thread(claim, shell, facts, lab_id=self._open.state.id)
        except KtoolError as error:
            self._results[name].fail(error)
            return False
        return True

    async def _ready(self) -> str:
        """The kubeconfig, and Nodes that are Ready; gives the API server's URL."""
        open_ = self._open.connections
        well = [m for m in self._lab.masters if m.name in open_ and self._results[m.name].error is None]
        if not well:
            return ""
        master = self._open.master if self._open.master in well else well[0]
        connection = open_[master.name]
        failed = {name for name, result in self._results.items() if result.error is not None}
        first = front(self._lab, self._open.facts, failed=failed) or master
        server = f"https://{self._open.endpoints[first.name].address}:{self._lab.api_port}"
        try:
            with machine_errors(master.name):
                await asyncio.to_thread(cluster.save_kubeconfig, self._open.state, connection, server=server)
        except KtoolError as error:
            self._results[master.name].fail(error)
            return ""
        waiting = [machine.name for machine in self._well() if machine.runs_agent]
        async with cluster.connected(self._open.state, connection, port=self._lab.api_port) as client:
            await asyncio.gather(*(self._wait(client, name) for name in waiting))
            for machine in self._well():
                await self._label(client, machine)
        for machine in self._well():
            result = self._results[machine.name]
            result.outcome = Outcome.READY if result.did else Outcome.UNCHANGED
        return server

    async def _label(self, client: Client, machine: Machine) -> None:
        result = self._results[machine.name]
        try:
            with machine_errors(machine.name):
                if machine.runs_agent and await cluster.label(client, machine.name, machine.labels):
                    result.did.append("labels set")
        except KtoolError as error:
            result.fail(error)

    async def _wait(self, client: Client, name: str) -> None:
        try:
            with doing(self._progress, self._journal, name, LabStep.READY) as step:
                missing = await cluster.wait_ready(
                    client,
                    [name],
                    timeout=self._options.ready_timeout,
                    on_change=lambda view: step.report(view.why or view.status),
                )
                if missing:
                    raise KtoolError(
                        f"node {name} does not become Ready",
                        found=missing[name].why,
                        wanted=f"Ready within {self._options.ready_timeout:g} s",
                        mend=f"ktool node why {name} -i {self._lab.source}",
                    )
                step.changed = bool(self._results[name].did)
                step.result = "node is Ready"
        except KtoolError as error:
            self._results[name].fail(error)


def front(lab: Lab, facts: Mapping[str, RemoteFacts], *, failed: Collection[str]) -> Machine | None:
    """The load balancer that the kubeconfig is to name; None where there is none that works. One that runs goes on
    doing so when this run had to leave it out."""
    there = [b for b in lab.balancers if b.name in facts]
    return next((b for b in there if b.name not in failed or facts[b.name].services.get("haproxy")), None)


def load() -> None:
    """Import what is wanted once a machine has booted: meanwhile there is time for it."""
    for name in ("paramiko", "ansible_runner.interface"):
        with contextlib.suppress(ImportError):  # told where it is used
            importlib.import_module(name)


class PreflightErrors(KtoolError):
    """A machine is not fit; `findings` has every reason."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{first.what}{more}", found=first.found, wanted=first.wanted, mend=first.mend)
        self.findings = tuple(findings)


def nothing_to_do(actions: Collection[Action]) -> bool:
    """Whether a plan has no deeds."""
    return not deeds(list(actions))
