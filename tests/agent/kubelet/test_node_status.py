"""What is told about a machine: facts → status."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.kubelet import machine, node_status
from agent.kubelet.machine import Hardware, Usage
from agent.kubelet.node_status import NodeFacts
from agent.runtime.runtime import Image, RuntimeCondition, RuntimeStatus, RuntimeVersion
from kube import objects, quantity
from kube.models import core_v1
from tests.agent.kubelet.build import NOW

GIB = 1 << 30
HARDWARE = Hardware(
    cpus=4,
    memory=8 * GIB,
    disk=100 * GIB,
    architecture="amd64",
    kernel="6.1.0",
    os_image="Debian GNU/Linux 12 (bookworm)",
    machine_id="m",
    boot_id="b",
    system_uuid="s",
    hostname="host-a",
    max_pids=1000,
)
USAGE = Usage(10.0, (0.5, 0.4, 0.3), 4 * GIB, 50 * GIB, 90.0, 100)
READY = RuntimeStatus((RuntimeCondition("RuntimeReady", True), RuntimeCondition("NetworkReady", True)))
FACTS = NodeFacts(
    name="node-a",
    hardware=HARDWARE,
    addresses=("192.0.2.10",),
    kubelet_port=10250,
    agent_version="0.1.0",
    runtime_version=RuntimeVersion("docker", "20.10.24", "1.41"),
    runtime=READY,
    images=(Image("sha256:1", ("web:1",), (), 100), Image("sha256:2", ("db:1",), ("db@sha256:9",), 900)),
)


def conditions(status: core_v1.NodeStatus) -> dict[str, tuple[str, str]]:
    return {c.type or "": (c.status or "", c.reason or "") for c in status.conditions}


def test_status() -> None:
    found = node_status.node_status(FACTS, None, now=NOW)
    assert found.capacity == {
        "cpu": "4",
        "memory": "8388608Ki",
        "ephemeral-storage": "104857600Ki",
        "pods": "110",
    }
    assert found.allocatable["cpu"] == "3900m"
    assert quantity.value(found.allocatable["memory"]) == pytest.approx(8 * GIB * 0.95, abs=1024)
    assert quantity.value(found.allocatable["ephemeral-storage"]) == 95 * GIB
    assert objects.to_dict(found)["addresses"] == [
        {"type": "InternalIP", "address": "192.0.2.10"},
        {"type": "Hostname", "address": "host-a"},
    ]
    assert found.nodeInfo is not None
    assert found.nodeInfo.containerRuntimeVersion == "docker://20.10.24"
    assert found.nodeInfo.kubeletVersion == "v1.32.0-ktool.0.1.0"
    assert [image.names for image in found.images] == [["db@sha256:9", "db:1"], ["web:1"]]
    assert conditions(found) == {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID"),
        "Ready": ("True", "KubeletReady"),
    }


def test_not_ready_without_runtime_or_network() -> None:
    broken = RuntimeStatus((RuntimeCondition("NetworkReady", False, "NoPodCIDR", "the node has no pod CIDR yet"),))
    found = node_status.node_status(replace(FACTS, runtime=broken, runtime_version=None), None, now=NOW)
    ready = objects.condition(found.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == ("False", "KubeletNotReady", "the node has no pod CIDR yet")


def test_times_of_conditions_stay_while_nothing_turns() -> None:
    first = node_status.node_status(FACTS, None, now=NOW)
    second = node_status.node_status(FACTS, first, now=NOW + 60)
    assert not node_status.status_changed(first, second)
    assert second.conditions[0].lastHeartbeatTime != first.conditions[0].lastHeartbeatTime
    assert second.conditions[0].lastTransitionTime == first.conditions[0].lastTransitionTime
    third = node_status.node_status(replace(FACTS, pressures={"DiskPressure": NOW}), second, now=NOW + 90)
    assert node_status.status_changed(second, third)
    assert conditions(third)["DiskPressure"] == ("True", "KubeletHasDiskPressure")


def test_conditions_of_others_stay() -> None:
    first = node_status.node_status(FACTS, None, now=NOW)
    first.conditions.append(core_v1.NodeCondition(type="NetworkUnavailable", status="False"))
    assert "NetworkUnavailable" in conditions(node_status.node_status(FACTS, first, now=NOW))


def test_a_node_that_the_master_gave_up_says_that_it_is_ready_again() -> None:
    first = node_status.node_status(FACTS, None, now=NOW)
    lost = objects.copy(first)
    for condition in lost.conditions:
        condition.status = "Unknown"
    again = node_status.node_status(FACTS, lost, now=NOW + 100)
    assert node_status.status_changed(lost, again)
    assert conditions(again)["Ready"] == ("True", "KubeletReady")


@pytest.mark.parametrize(
    ("usage", "pressures"),
    [
        (USAGE, set()),
        (replace(USAGE, memory_available=99 << 20), {"MemoryPressure"}),
        (replace(USAGE, disk_available=4 * GIB), {"DiskPressure"}),
        (replace(USAGE, inodes_free_percent=4.9), {"DiskPressure"}),
        (replace(USAGE, pids=951), {"PIDPressure"}),
    ],
)
def test_pressures(usage: Usage, pressures: set[str]) -> None:
    assert set(node_status.observe_pressures(usage, HARDWARE, {}, now=NOW)) == pressures


def test_a_pressure_lasts_a_minute() -> None:
    bad = node_status.observe_pressures(replace(USAGE, pids=999), HARDWARE, {}, now=NOW)
    assert set(node_status.observe_pressures(USAGE, HARDWARE, bad, now=NOW + 59)) == {"PIDPressure"}
    assert node_status.observe_pressures(USAGE, HARDWARE, bad, now=NOW + 60) == {}


def test_a_small_disk_has_pressure_at_a_tenth() -> None:
    assert node_status.disk_threshold(replace(HARDWARE, disk=20 * GIB)) == 2 * GIB


def test_a_small_machine_reserves_less() -> None:
    found = node_status.allocatable(replace(HARDWARE, cpus=1, memory=GIB))
    assert found["cpu"] == "900m"
    assert quantity.value(found["memory"]) == GIB - (100 << 20)


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (USAGE, False),
        (replace(USAGE, cpu_percent=19.0), False),
        (replace(USAGE, cpu_percent=20.0), True),
        (replace(USAGE, memory_available=3 * GIB), True),
        (replace(USAGE, disk_available=int(49.5 * GIB)), False),
        (replace(USAGE, disk_available=48 * GIB), True),
    ],
)
def test_small_changes_are_not_told(new: Usage, changed: bool) -> None:
    assert node_status.usage_changed(USAGE, new, HARDWARE) is changed


def test_annotations() -> None:
    assert node_status.usage_annotations(USAGE) == {
        "ktool.io/cpu-percent": "10",
        "ktool.io/load": "0.50 0.40 0.30",
        "ktool.io/memory-available": "4096Mi",
        "ktool.io/disk-available": "51200Mi",
    }


@pytest.mark.parametrize(
    ("addresses", "up", "expected"),
    [
        ({"lo": ["127.0.0.1"], "eth0": ["192.0.2.7"]}, {"lo", "eth0"}, "192.0.2.7"),
        ({"eth0": ["192.0.2.7"]}, set(), ""),
        (
            {"docker0": ["172.17.0.1"], "ktool0": ["10.244.0.1"], "eth1": ["192.0.2.8"]},
            {"docker0", "eth1"},
            "192.0.2.8",
        ),
        ({"eth0": ["169.254.3.4"]}, {"eth0"}, ""),
    ],
)
def test_first_global_address(addresses: dict[str, list[str]], up: set[str], expected: str) -> None:
    assert machine.first_global(addresses, up) == expected


def test_this_machine(tmp_path: Path) -> None:
    hardware = machine.hardware(tmp_path / "not" / "there" / "yet")
    assert hardware.cpus > 0
    assert hardware.memory > 1 << 20
    usage = machine.Meter(tmp_path).read()
    assert 0 < usage.memory_available <= hardware.memory
    assert 0 <= usage.cpu_percent <= 100
    assert machine.node_ip().count(".") == 3
