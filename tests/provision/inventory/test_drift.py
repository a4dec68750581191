"""Differences between an inventory, the providers' machines and the cluster's Nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube import objects
from kube.models import core_v1
from provision.inventory.drift import drift
from provision.inventory.lab import Lab, Machine, ProviderName, Role, Taint
from provision.providers.provider import Found, MachineState

MACHINE = Machine(
    name="m",
    provider=ProviderName.LIBVIRT,
    roles=frozenset({Role.MASTER}),
    address="192.168.150.10",
    labels={"disk": "ssd"},
    taints=(Taint(key="a", value="b"),),
)
FOUND = Found(name="m", state=MachineState.RUNNING, address="192.168.150.10")


def lab(*machines: Machine) -> Lab:
    return Lab(name="lab", source=Path("lab.yml"), machines=machines)


def node(name: str = "m", **changes: Any) -> core_v1.Node:
    data: dict[str, Any] = {
        "metadata": {"name": name, "labels": {"disk": "ssd", "kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.168.150.10"}],
            "nodeInfo": {"containerRuntimeVersion": "docker://27.0"},
        },
    }
    for part, content in changes.items():
        data[part] = {**data[part], **content}
    return objects.from_dict(data, core_v1.Node)


def lines(found: Sequence[Found], nodes: Sequence[core_v1.Node] | None, machine: Machine = MACHINE) -> list[str]:
    return [str(difference) for difference in drift(lab(machine), found, nodes)]


@pytest.mark.parametrize(
    ("found", "nodes", "machine"),
    [
        (FOUND, node(), MACHINE),
        # conditions make these taints, not people
        (FOUND, node(spec={"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"},
                                      {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}), MACHINE),
        (replace(FOUND, address=""), node(status={"addresses": [], "nodeInfo": None}), MACHINE),
        (replace(FOUND, address="192.168.150.99"), node(), replace(MACHINE, address="")),
    ],
)  # fmt: skip
def test_no_drift(found: Found, nodes: core_v1.Node, machine: Machine) -> None:
    assert lines([found], [nodes], machine) == []


def test_a_load_balancer_is_no_node() -> None:
    balancer = replace(MACHINE, runs_agent=False)
    assert lines([FOUND], [], balancer) == []
    assert lines([FOUND], [node()], balancer) == ["m (cluster): found a Node; wanted no Node (ktool_agent is false)"]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ([], "m (libvirt): found no machine; wanted a running machine"),
        ([replace(FOUND, state=MachineState.ABSENT)], "m (libvirt): found no machine; wanted a running machine"),
        ([replace(FOUND, state=MachineState.STOPPED)], "m (libvirt, state): found stopped; wanted running"),
        ([replace(FOUND, state=MachineState.BROKEN)], "m (libvirt, state): found broken; wanted running"),
        (
            [replace(FOUND, differences=("memory: 512 MiB, wanted 1024 MiB",))],
            "m (libvirt, memory): found 512 MiB; wanted 1024 MiB",
        ),
        ([replace(FOUND, differences=("odd",))], "m (libvirt): found odd; wanted as the inventory says"),
        (
            [replace(FOUND, address="192.168.150.99")],
            "m (libvirt, address): found 192.168.150.99; wanted 192.168.150.10",
        ),
        (
            [FOUND, Found(name="old", state=MachineState.RUNNING, known=False)],
            "old (provider): found a machine that is running; wanted no such machine",
        ),
    ],
)
def test_machines(found: list[Found], wanted: str) -> None:
    assert lines(found, [node()]) == [wanted]


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([], "m (cluster): found no Node; wanted a Node that is Ready"),
        ([node(), node("old")], "old (cluster): found a Node; wanted no such Node"),
        (
            [node(status={"conditions": [{"type": "Ready", "status": "False", "message": "no engine"}]})],
            "m (cluster, Ready): found not Ready: no engine; wanted Ready",
        ),
        ([node(status={"conditions": []})], "m (cluster, Ready): found not Ready; wanted Ready"),
        (
            [node(spec={"unschedulable": True})],
            "m (cluster, schedulable): found cordoned; wanted schedulable",
        ),
        ([node(metadata={"labels": {}})], 'm (cluster, label disk): found none; wanted "ssd"'),
        ([node(metadata={"labels": {"disk": "hdd"}})], 'm (cluster, label disk): found "hdd"; wanted "ssd"'),
        ([node(spec={"taints": []})], "m (cluster, taint a): found none; wanted a=b:NoSchedule"),
        (
            [node(spec={"taints": [{"key": "a", "value": "c", "effect": "NoSchedule"}]})],
            "m (cluster, taint a): found a=c:NoSchedule; wanted a=b:NoSchedule",
        ),
        (
            [node(spec={"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"},
                                   {"key": "x", "effect": "NoExecute"}]})],
            "m (cluster, taint x): found x:NoExecute; wanted none",
        ),
        (
            [node(status={"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]})],
            "m (cluster, address): found 10.0.0.1; wanted 192.168.150.10",
        ),
        (
            [node(status={"nodeInfo": {"containerRuntimeVersion": "containerd://1.6"}})],
            "m (cluster, runtime): found containerd://1.6; wanted docker",
        ),
        (None, "lab (cluster): found no cluster; wanted a cluster of these machines"),
    ],
)  # fmt: skip
def test_nodes(nodes: list[core_v1.Node] | None, wanted: str) -> None:
    assert lines([FOUND], nodes) == [wanted]
