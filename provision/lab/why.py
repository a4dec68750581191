"""Why is a node not Ready? From what can be seen outside and inside to plain words and a mend, as a pure function.

The chain is looked at from the ground up: is there a machine, does it run, does SSH answer, is ktool on it, does its
agent run, can the agent reach the master, has the Node registered, what do its conditions say. The first broken link
explains most of what comes after it, so it stands first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kube.errors import KtoolError
from provision.inventory.lab import Machine, Role
from provision.lab.plan import MAKING
from provision.providers.provider import Found, MachineState


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the Node."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen. `unreached` is why SSH does not answer; `services` which of ktool's services run (None: nobody
    could look); `agent_log` the end of the agent's log; `conditions` None where the cluster has no such Node, and
    `api_problem` why the cluster could not be asked."""

    machine: Machine
    found: Found
    diagnosis: str = ""
    unreached: KtoolError | None = None
    runtime: str = ""
    services: Mapping[str, bool] | None = None
    docker: str = ""
    agent_log: str = ""
    conditions: tuple[Condition, ...] | None = None
    api_problem: str = ""
    unschedulable: bool = False
    etcd: bool = False
    membership: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """One broken link: what it is, what shows it, and what mends it."""

    what: str
    evidence: str = ""
    mend: str = ""


# What the agent's log says, in words (docs/troubleshooting.md).
_LOG = (
    (
        r"cannot be reached|Connection refused|Connect call failed|No route to host|TimeoutError",
        "the agent cannot reach the master",
        "look whether the master runs, and whether a firewall is between: ktool lab status",
    ),
    (
        r"does not accept the join token|token .*expired|Unauthorized",
        "the master does not accept the agent",
        "run ktool lab create again: it makes a new token",
    ),
    (
        r"is not the cluster of the join file|another cluster|certificate verify failed",
        "the agent knows another cluster than the one that answers",
        "ktool node reset it, then ktool lab create",
    ),
    (
        r"another name",
        "the machine has joined under another name",
        "ktool node reset it, then ktool lab create",
    ),
    (
        r"docker.*(not reachable|refused|No such file)|Cannot connect to the Docker",
        "the agent cannot reach Docker Engine",
        "on the machine: systemctl status docker; journalctl -u docker",
    ),
)
# Conditions of a Node that are bad when true, with their mends.
_PRESSURE = {
    "MemoryPressure": "free memory on the machine, or take pods away from it",
    "DiskPressure": "make room: docker image prune, or a larger disk",
    "PIDPressure": "look for a program that starts processes without end",
    "NetworkUnavailable": "look at the agent's log",
}


def explain(seen: Evidence, *, inventory: str) -> list[Reason]:
    """Every reason that the evidence gives, the deepest first; empty if the node is well."""
    name, create = seen.machine.name, f"ktool lab create -i {inventory} -l {seen.machine.name}"
    if seen.found.state is not MachineState.RUNNING:
        return [_not_running(seen, create)]
    if seen.unreached is not None:
        error = seen.unreached
        reasons = [Reason(f"SSH does not answer: {error.what}", error.found, error.mend)]
        reasons += [Reason("seen from outside", seen.diagnosis)] if seen.diagnosis else []
        return reasons + _inside(seen, inventory)
    reasons = []
    if Role.LOAD_BALANCER in seen.machine.roles and not (seen.services or {}).get("haproxy"):
        reasons.append(Reason("the load balancer does not run", mend=f"{create}, or ktool node ssh {name}"))
    if not (seen.machine.is_master or seen.machine.runs_agent):
        return reasons
    if not seen.runtime:
        reasons.append(Reason("ktool is not installed on the machine", mend=create))
    elif seen.services is not None:
        if not seen.docker:
            reasons.append(Reason("Docker Engine does not answer", mend="on the machine: systemctl status docker"))
        wanted = ["etcd"] if seen.etcd else []
        wanted += (["master"] if seen.machine.is_master else []) + (["agent"] if seen.machine.runs_agent else [])
        for service in wanted:
            if not seen.services.get(service):
                last = seen.agent_log.strip().splitlines()[-1:] if service == "agent" else []
                reasons.append(
                    Reason(f"the {service} does not run", "".join(last), f"{create}, or ktool node ssh {name}")
                )
        if seen.membership:
            reasons.append(Reason(f"the master {seen.membership}", mend="look at /var/lib/ktool/log/etcd.log on it"))
        reasons += _of_log(seen.agent_log) if seen.machine.runs_agent and not _is_ready(seen) else []
    return reasons + _inside(seen, inventory)


def _not_running(seen: Evidence, create: str) -> Reason:
    match seen.found.state:
        case MachineState.ABSENT if seen.machine.provider in MAKING:
            return Reason("there is no such machine", mend=create)
        case MachineState.ABSENT:
            return Reason("the machine is not there", seen.diagnosis, "switch it on, or take it out of the inventory")
        case MachineState.BROKEN:
            return Reason("the machine is half made", seen.diagnosis, create)
        case _:
            return Reason("the machine is stopped", seen.diagnosis, create)


def _of_log(log: str) -> list[Reason]:
    """What the end of the agent's log says; the last line that matches counts."""
    for line in reversed(log.splitlines()[-20:]):
        for pattern, what, mend in _LOG:
            if re.search(pattern, line, re.IGNORECASE):
                return [Reason(what, line.strip(), mend)]
    return []


def _is_ready(seen: Evidence) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in seen.conditions or ())


def _inside(seen: Evidence, inventory: str) -> list[Reason]:
    """What the cluster knows."""
    if seen.api_problem:
        return [Reason("the cluster could not be asked", seen.api_problem, "ktool node why the master")]
    if not seen.machine.runs_agent:
        return []
    if seen.conditions is None:
        return [Reason("the cluster has no node of this name: its agent has not registered")]
    reasons = []
    for condition in seen.conditions:
        said = condition.message or condition.reason
        if condition.type == "Ready" and condition.status != "True":
            what = (
                "the master has not heard of the node for a while"
                if condition.status == "Unknown"
                else "the node says that it is not ready"
            )
            reasons.append(Reason(what, said))
        elif condition.type in _PRESSURE and condition.status == "True":
            reasons.append(Reason(f"{condition.type}", said, _PRESSURE[condition.type]))
        elif condition.type == "PodRoutesReady" and condition.status != "True":
            what = "pods on other nodes cannot be reached from this one"
            reasons.append(Reason(what, said, "look whether the nodes are on one network segment"))
        elif condition.type == "ServiceProxyReady" and condition.status != "True":
            reasons.append(Reason("the node's service proxy does not work", said, "look at the agent's log"))
    if seen.unschedulable:
        reasons.append(
            Reason(
                "the node is cordoned: it takes no new pods",
                mend=f"ktool --lab {inventory} node uncordon {seen.machine.name}",
            )
        )
    return reasons
