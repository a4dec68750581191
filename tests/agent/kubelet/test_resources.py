"""Requests and limits in the kernel's units."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet import resources
from agent.kubelet.admission import admit
from agent.runtime.runtime import Resources
from kube import objects
from kube.models import core_v1
from tests.agent.kubelet.build import pod

GIB = 1 << 30


def sized(*needs: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **spec: Any) -> core_v1.Pod:
    data = objects.to_dict(pod(**spec))
    data["spec"]["containers"] = [{"name": f"c{i}", "resources": n} for i, n in enumerate(needs)]
    data["spec"]["initContainers"] = [{"name": f"i{i}", **n} for i, n in enumerate(init)]
    return objects.from_dict(data, core_v1.Pod)


def requests(**amounts: str) -> dict[str, Any]:
    return {"requests": amounts}


@pytest.mark.parametrize(("milli", "shares"), [(0, 2), (1, 2), (100, 102), (1000, 1024), (10**9, 262144)])
def test_cpu_shares(milli: int, shares: int) -> None:
    assert resources.cpu_shares(milli) == shares


@pytest.mark.parametrize(("milli", "quota"), [(0, 0), (1, 1000), (100, 10_000), (1500, 150_000)])
def test_cpu_quota(milli: int, quota: int) -> None:
    assert resources.cpu_quota(milli) == quota


@given(st.integers(min_value=0, max_value=10**7))
def test_more_cpu_never_means_fewer_shares(milli: int) -> None:
    assert resources.cpu_shares(milli) <= resources.cpu_shares(milli + 1)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}, "Burstable"),
        ({"limits": {"memory": "1Gi"}}, "Burstable"),
        ({"requests": {"cpu": "1m"}}, "Burstable"),
        ({"requests": {"cpu": "0"}}, "BestEffort"),
    ],
)
def test_quality_of_service(needs: dict[str, Any], expected: str) -> None:
    assert resources.qos_class(sized(needs)) == expected


def test_one_container_without_limits_makes_a_pod_burstable() -> None:
    assert resources.qos_class(sized({"limits": {"cpu": "1", "memory": "1Gi"}}, {})) == "Burstable"


@pytest.mark.parametrize(
    ("needs", "score"),
    [
        ({}, 1000),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, -997),
        (requests(memory="1Gi"), 750),
        (requests(memory="4Gi"), 3),
        (requests(cpu="1m"), 999),
    ],
)
def test_oom_score(needs: dict[str, Any], score: int) -> None:
    found = sized(needs)
    assert found.spec is not None
    assert resources.oom_score_adj(found, found.spec.containers[0], node_memory=4 * GIB) == score


def test_a_containers_resources() -> None:
    found = sized({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}})
    assert found.spec is not None
    assert resources.container_resources(found, found.spec.containers[0], node_memory=4 * GIB) == Resources(
        cpu_shares=256,
        cpu_quota=50_000,
        cpu_period=100_000,
        memory_limit_bytes=128 << 20,
        oom_score_adj=985,
    )


@pytest.mark.parametrize(
    ("needs", "init", "expected"),
    [
        ((requests(cpu="100m"), requests(cpu="200m", memory="1Ki")), (), {"cpu": 300, "memory": 1024}),
        ((requests(cpu="100m"),), ({"resources": requests(cpu="500m")},), {"cpu": 500}),
        ((requests(cpu="100m"),), ({"resources": requests(cpu="50m")},), {"cpu": 100}),
        (
            (requests(cpu="100m"),),
            ({"restartPolicy": "Always", "resources": requests(cpu="50m")}, {"resources": requests(cpu="120m")}),
            {"cpu": 170},
        ),
        (({"limits": {"cpu": "1"}},), (), {"cpu": 1000}),
    ],
)
def test_what_a_pod_needs(needs: Any, init: Any, expected: dict[str, int]) -> None:
    assert resources.pod_requests(sized(*needs, init=init)) == expected


ALLOCATABLE = {"cpu": "1900m", "memory": "4Gi", "pods": "3"}


@pytest.mark.parametrize(
    ("wanted", "others", "reason"),
    [
        (sized(requests(cpu="1900m")), [], None),
        (sized(requests(cpu="1901m")), [], "OutOfcpu"),
        (sized(requests(cpu="1000m")), [sized(requests(cpu="1000m"))], "OutOfcpu"),
        (sized(requests(memory="5Gi")), [], "OutOfmemory"),
        (sized({}), [sized({}), sized({})], None),
        (sized({}), [sized({}), sized({}), sized({})], "OutOfpods"),
        (sized(requests(**{"example.com/gpu": "1"})), [], "OutOfexample.com/gpu"),
        (sized(requests(cpu="0")), [sized(requests(cpu="3"))], None),
    ],
)
def test_admission(wanted: core_v1.Pod, others: list[core_v1.Pod], reason: str | None) -> None:
    refusal = admit(wanted, others, allocatable=ALLOCATABLE)
    assert (refusal.reason if refusal else None) == reason


def test_admission_explains_itself() -> None:
    refusal = admit(sized(requests(cpu="1")), [sized(requests(cpu="1"))], allocatable=ALLOCATABLE)
    assert refusal is not None
    assert refusal.message == (
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1000, capacity: 1900"
    )


def test_host_ports_are_taken_once() -> None:
    def with_port(address: str = "") -> core_v1.Pod:
        found = pod()
        assert found.spec is not None
        found.spec.containers[0].ports = [core_v1.ContainerPort(containerPort=80, hostPort=8080, hostIP=address)]
        return found

    refusal = admit(with_port(), [with_port()], allocatable=ALLOCATABLE)
    assert refusal is not None
    assert refusal.reason == "NodePorts"
    assert admit(with_port("10.0.0.1"), [with_port("10.0.0.2")], allocatable=ALLOCATABLE) is None
    assert admit(with_port("10.0.0.1"), [with_port()], allocatable=ALLOCATABLE) is not None


def test_admission_looks_at_the_node_selector() -> None:
    node = core_v1.Node()
    node.metadata.labels = {"disk": "ssd"}
    assert admit(pod(nodeSelector={"disk": "ssd"}), [], allocatable=ALLOCATABLE, node=node) is None
    refusal = admit(pod(nodeSelector={"disk": "hdd"}), [], allocatable=ALLOCATABLE, node=node)
    assert refusal is not None
    assert refusal.reason == "NodeAffinity"
