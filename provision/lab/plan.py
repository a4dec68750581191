"""What `lab create` would do: from what the inventory wants and what there is to actions, as a pure function.

seen (provider, machine, cluster)  ─┐
                                    ├─ difference ─▶ actions per machine ─▶ done in the order of the steps
wanted (inventory, this ktool)     ─┘
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from provision.inventory.lab import Lab, Machine, ProviderName, Role, Store
from provision.lab.events import LabStep
from provision.providers.provider import Found, MachineState

CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
# Providers whose machines ktool makes and removes.
MAKING = frozenset({ProviderName.LIBVIRT, ProviderName.NSPAWN, ProviderName.REDFISH})


class Mark(StrEnum):
    """What an action does, as Terraform's users know it."""

    ADD = "+"
    CHANGE = "~"
    REMOVE = "-"
    LOOK = "?"  # what is to be done will be seen on the machine
    TELL = "!"  # nothing is done, the user should know


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do on a machine (or, with TELL, to know about it)."""

    machine: str
    step: LabStep
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What a machine says of ktool on it: the node runtime's key, the digest of the settings that were applied last,
    and which of ktool's services run. Empty where there is nothing."""

    runtime: str = ""
    applied: str = ""
    services: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine as it is. `installed` is None if nobody could look (absent, stopped, or `problem` says why)."""

    found: Found
    installed: Installed | None = None
    problem: str = ""
    node: str = ""  # "", "Ready", "NotReady": the cluster's Node of that name


class Wanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine's ktool is to be: everything that the roles on it depend on.

    `runtimes` are the keys of the archives that serve it (a master's serves a worker too), the first for a new one.
    """

    runtimes: tuple[str, ...]
    name: str
    address: str
    roles: tuple[str, ...]
    agent: bool
    labels: dict[str, str]
    taints: tuple[str, ...]
    api_port: int
    kubelet_port: int
    pod_cidr: str
    service_cidr: str
    tls_sans: tuple[str, ...] = ()
    etcd: bool = False
    server: str = ""  # the load balancer's URL, for nodes of a lab that has one
    backends: tuple[str, ...] = ()  # the masters' addresses, for a load balancer

    @property
    def has_runtime(self) -> bool:
        """Whether ktool itself runs there."""
        return "master" in self.roles or self.agent

    @property
    def services(self) -> frozenset[str]:
        """The services that must run."""
        master = {"master"} if "master" in self.roles else set()
        etcd = {"etcd"} if self.etcd else set()
        balancer = {"haproxy"} if "load_balancer" in self.roles else set()
        return frozenset(master | etcd | balancer | ({"agent"} if self.agent else set()))

    @property
    def digest(self) -> str:
        """Changes when, and only when, the machine has to be gone over again; runtimes are compared by themselves."""
        settings = msgspec.structs.replace(self, runtimes=())
        return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()


def wanted(
    lab: Lab,
    machine: Machine,
    *,
    runtimes: Sequence[str],
    address: str,
    tls_sans: Sequence[str] = (),
    server: str = "",
    backends: Sequence[str] = (),
) -> Wanted:
    """The settings of one machine; `address` is the one at which the others reach it, `server` the load balancer's URL
    if there is one, `backends` are the masters' addresses as far as they are known."""
    return Wanted(
        runtimes=tuple(runtimes),
        name=machine.name,
        address=address,
        roles=tuple(sorted(machine.roles)),
        agent=machine.runs_agent,
        labels=dict(machine.labels),
        taints=tuple(str(taint) for taint in machine.taints),
        api_port=lab.api_port,
        kubelet_port=lab.kubelet_port,
        pod_cidr=lab.pod_cidr,
        service_cidr=lab.service_cidr,
        tls_sans=tuple(sorted(set(tls_sans))) if machine.is_master else (),
        etcd=machine.is_master and lab.store is Store.ETCD,
        server=server if machine.runs_agent and not machine.is_master else "",
        backends=tuple(backends) if Role.LOAD_BALANCER in machine.roles else (),
    )


def plan(lab: Lab, seen: Mapping[str, Seen], wants: Mapping[str, Wanted]) -> list[Action]:
    """Everything that is to be done, in the inventory's order; empty of deeds if all is as it should be.

    `seen` has every machine of the lab, and those found that the inventory does not know; `wants` has machines whose
    settings are known already (an address may not be, before a machine is made).
    """
    actions: list[Action] = []
    for machine in lab.machines:
        actions += _machine(lab, machine, seen[machine.name], wants.get(machine.name))
    known = {machine.name for machine in lab.machines}
    actions += [
        Action(
            name,
            LabStep.REMOVE,
            Mark.TELL,
            f"is not in the inventory; remove it: ktool node remove {name} -i INVENTORY",
        )
        for name in seen
        if name not in known
    ]
    return actions


def deeds(actions: Sequence[Action]) -> list[Action]:
    """The actions that change something (or may)."""
    return [action for action in actions if action.mark is not Mark.TELL]


def differences(installed: Installed, want: Wanted) -> list[str]:
    """In words, what on a machine is not as it should be; empty if it need not be touched."""
    found: list[str] = []
    if want.has_runtime and installed.runtime not in want.runtimes:
        wanted_key = want.runtimes[0][:12]
        found.append(
            f"node runtime {installed.runtime[:12]} → {wanted_key}"
            if installed.runtime
            else f"install node runtime {wanted_key}"
        )
    missing = sorted(want.services - installed.services, reverse=True)
    if missing:
        found.append(f"start {' and '.join(missing)}")
    if not found and installed.applied != want.digest:
        found.append("apply changed settings")
    return found


def _machine(lab: Lab, machine: Machine, seen: Seen, want: Wanted | None) -> list[Action]:
    name, state = machine.name, seen.found.state
    actions = [
        Action(name, LabStep.CREATE, Mark.TELL, f"differs: {difference}") for difference in seen.found.differences
    ]
    if state is MachineState.ABSENT and machine.provider in MAKING:
        actions += [Action(name, LabStep.CREATE, Mark.ADD, f"make {_describe(machine)}"), *_whole(lab, machine)]
    elif state is MachineState.ABSENT or seen.problem:
        actions.append(Action(name, LabStep.REACH, Mark.LOOK, seen.problem or "is not there"))
    elif state is MachineState.BROKEN:
        actions += [Action(name, LabStep.CREATE, Mark.CHANGE, "finish what is half made"), *_whole(lab, machine)]
    elif state is MachineState.STOPPED:
        actions += [
            Action(name, LabStep.CREATE, Mark.CHANGE, "start"),
            Action(name, LabStep.INSTALL, Mark.LOOK, "look whether anything is missing"),
        ]
    elif seen.installed is None or want is None:
        actions.append(Action(name, LabStep.INSTALL, Mark.LOOK, "look whether anything is missing"))
    else:
        new = not seen.installed.runtime and not seen.installed.applied
        mark = Mark.ADD if new else Mark.CHANGE
        actions += [Action(name, LabStep.INSTALL, mark, text) for text in differences(seen.installed, want)]
        if machine.runs_agent and seen.node != "Ready":
            actions.append(Action(name, LabStep.READY, mark, f"node {seen.node or 'registers'} → Ready"))
    return actions


def _whole(lab: Lab, machine: Machine) -> list[Action]:
    """All that follows the making of a machine."""
    parts = ["node runtime"] if machine.is_master or machine.runs_agent else []
    parts += ["load balancer"] if Role.LOAD_BALANCER in machine.roles else []
    parts += ["etcd"] if machine.is_master and lab.store is Store.ETCD else []
    parts += ["master"] if machine.is_master else []
    parts += ["agent"] if machine.runs_agent else []
    actions = [Action(machine.name, LabStep.INSTALL, Mark.ADD, f"install {', '.join(parts)}")]
    if machine.runs_agent:
        actions.append(Action(machine.name, LabStep.READY, Mark.ADD, "node registers → Ready"))
    return actions


def _describe(machine: Machine) -> str:
    return (
        f"{machine.provider} machine, {machine.cpus} CPU{'s' if machine.cpus != 1 else ''}, {machine.memory_mib} MiB, "
        f"{machine.disk_gib} GiB, from {machine.image.source}"
    )
