"""`lab status`: each machine as its provider, its own inside and the cluster see it. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kube.errors import KtoolError
from kube.status import ApiError
from provision.inventory.lab import Lab, Machine, Role, Store
from provision.lab import cluster, etcd
from provision.lab.events import LabJournal, OpenStep
from provision.lab.open_lab import NO_PASSWORDS, Passwords, opened
from provision.lab_state import LabState
from provision.providers.provider import Found, MachineState


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """One machine. `node` is the cluster's Node of that name; `problem` is the first thing that is not well."""

    name: str
    provider: str
    roles: tuple[str, ...]
    state: MachineState
    address: str
    node: cluster.NodeView | None
    runtime: str
    services: tuple[str, ...]
    problem: str = ""

    @property
    def well(self) -> bool:
        """Whether there is nothing to tell of this machine."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab at a glance. `under_way` is what an interrupted or running command has begun."""

    name: str
    server: str
    machines: tuple[MachineStatus, ...]
    under_way: tuple[OpenStep, ...]

    @property
    def well(self) -> bool:
        """Whether every machine is as it should be."""
        return all(machine.well for machine in self.machines) and not self.under_way


async def status(lab: Lab, state: LabState, passwords: Passwords = NO_PASSWORDS) -> LabStatus:
    """Look at every machine of a lab, side by side; a machine that does not answer is told as such."""
    async with opened(lab, state, passwords=passwords) as open_lab:
        found = await open_lab.find()
        if state.path.exists():
            await open_lab.look_at_all(found)
        views: dict[str, cluster.NodeView] | None = {}
        trouble = ""
        master = open_lab.connections.get(open_lab.master.name)
        if master is not None and state.kubeconfig.exists():
            try:
                async with cluster.connected(state, master, port=lab.api_port) as client:
                    views = await cluster.nodes(client)
            except (KtoolError, ApiError, ConnectionError, TimeoutError) as error:
                views, trouble = None, f"the API server does not answer: {error}"
        members: list[etcd.MemberView] | None = None
        if lab.store is Store.ETCD and master is not None and state.kubeconfig.exists():
            try:
                members = await etcd.members(open_lab)
            except KtoolError as error:
                trouble = trouble or str(error)
        machines = []
        for name, one in found.items():
            machine = lab.machine(name)
            facts = open_lab.facts.get(name)
            services = tuple(sorted(s for s, active in facts.services.items() if active)) if facts else ()
            stopped_by = open_lab.problems.get(name)
            unreached = str(stopped_by) if stopped_by else ""
            if machine is not None and not unreached and facts is not None and state.kubeconfig.exists():
                unreached = stopped(machine, services, etcd=lab.store is Store.ETCD)
            if name == open_lab.master.name:
                unreached = unreached or trouble
            if machine is not None and machine.is_master and members is not None:
                unreached = unreached or etcd.trouble(members, name)
            node = (views or {}).get(name)
            machines.append(
                MachineStatus(
                    name=name,
                    provider=machine.provider if machine else "",
                    roles=tuple(sorted(machine.roles)) if machine else (),
                    state=one.state,
                    address=one.address or (facts.node_address if facts else ""),
                    node=node,
                    runtime=facts.runtime_key if facts else "",
                    services=services,
                    problem=problem(
                        machine,
                        one,
                        node,
                        unreached=unreached,
                        looked=facts is not None,
                        asked=views is not None,
                        services=services,
                    ),
                )
            )
        server = ""
        if state.kubeconfig.exists():
            from kube import kubeconfig

            server = kubeconfig.connect(state.kubeconfig).server
        return LabStatus(lab.name, server, tuple(machines), tuple(LabJournal(state.journal).open_steps))


def stopped(machine: Machine, services: Collection[str], *, etcd: bool) -> str:
    """Which of ktool's services on a machine of a cluster ought to run and do not, in words; empty if all run."""
    wanted = (["etcd"] if etcd else []) + ["master"] if machine.is_master else []
    wanted += ["agent"] if machine.runs_agent else []
    missing = [name for name in wanted if name not in services]
    if not missing:
        return ""
    several = len(missing) > 1
    named = f"{', '.join(missing[:-1])} and {missing[-1]} do" if several else f"{missing[0]} does"
    return f"its {named} not run: ktool lab create starts {'them' if several else 'it'}"


def problem(
    machine: Machine | None,
    found: Found,
    node: cluster.NodeView | None,
    *,
    unreached: str,
    looked: bool,
    asked: bool = True,
    services: Collection[str] = (),
) -> str:
    """The first thing that is not well with a machine, in words; empty if it is as it should be.

    `unreached`: what is known already; `looked`: whether anybody was on it; `asked`: whether the cluster told of nodes.
    """
    if machine is None:
        return "is not in the inventory"
    if found.state is not MachineState.RUNNING:
        return {
            MachineState.ABSENT: "is not there: ktool lab create makes it",
            MachineState.STOPPED: "is stopped: ktool lab create starts it",
            MachineState.BROKEN: "is half made: ktool lab create finishes it",
        }[found.state]
    if unreached:
        return unreached
    if not looked:
        return "is not looked at before there is a lab: ktool lab create makes it"
    if Role.LOAD_BALANCER in machine.roles and "haproxy" not in services:
        return "its load balancer does not run: ktool lab create starts it"
    if not asked and machine.runs_agent:
        return "the cluster could not be asked about its node"
    if machine.runs_agent and node is None:
        return "has no node in the cluster"
    if machine.runs_agent and node is not None and not node.ready:
        return f"node is not Ready: {node.why}"
    return "; ".join(found.differences)
