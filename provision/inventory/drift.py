"""Where an inventory, the providers' machines and the cluster's Nodes differ. Pure.

The inventory says what is wanted. A difference names the side that is not so: a machine (libvirt's domain, the nspawn
machine) or the Node. Only what the inventory speaks of is compared: labels that somebody put on a Node besides are no
drift, taints are, as they keep pods away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kube import objects
from kube.models import core_v1
from provision.inventory.lab import Lab, Machine
from provision.providers.provider import Found, MachineState

# Kubernetes taints nodes by these itself, as their conditions change.
_CONDITION_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")

CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. `side` is the provider's name or `cluster`; `field` names what differs, empty for the whole."""

    machine: str
    side: str
    field: str
    found: str
    wanted: str

    def __str__(self) -> str:
        what = f"{self.side}, {self.field}" if self.field else self.side
        return f"{self.machine} ({what}): found {self.found}; wanted {self.wanted}"


def drift(lab: Lab, found: Sequence[Found], nodes: Sequence[core_v1.Node] | None) -> list[Difference]:
    """All differences, in the order of the inventory's machines, and then what the inventory does not know.

    `found` is what all providers of the lab found; `nodes` None means that there is no cluster to ask (yet).
    """
    by_name = {one.name: one for one in found}
    by_node = {objects.name(node): node for node in nodes or ()}
    result: list[Difference] = []
    for machine in lab.machines:
        one = by_name.get(machine.name)
        result += _machine(machine, one)
        if nodes is not None:
            result += _node(machine, by_node.get(machine.name))
    known = {machine.name for machine in lab.machines}
    for one in found:
        if one.name not in known:
            result.append(Difference(one.name, "provider", "", f"a machine that is {one.state}", "no such machine"))
    for name in by_node:
        if name not in known:
            result.append(Difference(name, CLUSTER, "", "a Node", "no such Node"))
    if nodes is None and lab.machines:
        result.append(Difference(lab.name, CLUSTER, "", "no cluster", "a cluster of these machines"))
    return result


def _machine(machine: Machine, found: Found | None) -> Iterator[Difference]:
    if found is None or found.state is MachineState.ABSENT:
        yield Difference(machine.name, machine.provider, "", "no machine", "a running machine")
        return
    if found.state is not MachineState.RUNNING:
        yield Difference(machine.name, machine.provider, "state", str(found.state), str(MachineState.RUNNING))
    for text in found.differences:
        # providers say "memory: 512 MiB, wanted 1024 MiB"
        field, colon, values = text.partition(": ")
        have, comma, want = values.partition(", wanted ")
        if colon and comma:
            yield Difference(machine.name, machine.provider, field, have, want)
        else:
            yield Difference(machine.name, machine.provider, "", text, "as the inventory says")
    if machine.address and found.address and found.address != machine.address:
        yield Difference(machine.name, machine.provider, "address", found.address, machine.address)


def _node(machine: Machine, node: core_v1.Node | None) -> Iterator[Difference]:
    if node is None:
        if machine.runs_agent:
            yield Difference(machine.name, CLUSTER, "", "no Node", "a Node that is Ready")
        return
    if not machine.runs_agent:
        yield Difference(machine.name, CLUSTER, "", "a Node", "no Node (ktool_agent is false)")
        return
    yield from _readiness(machine, node)
    yield from _labels(machine, node.metadata.labels or {})
    yield from _taints(machine, node)
    status = node.status or core_v1.NodeStatus()
    addresses = [a.address for a in status.addresses if a.type == "InternalIP" and a.address]
    # ansible_host is not compared: behind a NAT we reach a machine at another address than its neighbours do
    if machine.address and addresses and machine.address not in addresses:
        yield Difference(machine.name, CLUSTER, "address", ", ".join(addresses), machine.address)
    version = (status.nodeInfo.containerRuntimeVersion if status.nodeInfo else "") or ""
    if version and version.partition("://")[0] != machine.runtime:
        yield Difference(machine.name, CLUSTER, "runtime", version, machine.runtime)


def _readiness(machine: Machine, node: core_v1.Node) -> Iterator[Difference]:
    ready = objects.condition(node.status.conditions if node.status else (), "Ready")
    if ready is None or ready.status != "True":
        why = "" if ready is None else ready.message or ready.reason or ""
        yield Difference(machine.name, CLUSTER, "Ready", f"not Ready: {why}" if why else "not Ready", "Ready")
    if node.spec is not None and node.spec.unschedulable:
        yield Difference(machine.name, CLUSTER, "schedulable", "cordoned", "schedulable")


def _labels(machine: Machine, labels: Mapping[str, str]) -> Iterator[Difference]:
    for key, value in machine.labels.items():
        if key not in labels:
            yield Difference(machine.name, CLUSTER, f"label {key}", "none", f'"{value}"')
        elif labels[key] != value:
            yield Difference(machine.name, CLUSTER, f"label {key}", f'"{labels[key]}"', f'"{value}"')


def _taints(machine: Machine, node: core_v1.Node) -> Iterator[Difference]:
    spec = node.spec or core_v1.NodeSpec()
    wanted = {(t.key, t.effect): t.value for t in machine.taints}
    found = {
        (t.key or "", t.effect or ""): t.value or ""
        for t in spec.taints
        if not (t.key or "").startswith(_CONDITION_TAINTS)
    }
    for key, effect in sorted({*wanted, *found}):
        have, want = found.get((key, effect)), wanted.get((key, effect))
        if have != want:
            yield Difference(
                machine.name, CLUSTER, f"taint {key}", _taint(key, have, effect), _taint(key, want, effect)
            )


def _taint(key: str, value: str | None, effect: str) -> str:
    if value is None:
        return "none"
    return f"{key}={value}:{effect}" if value else f"{key}:{effect}"
