from __future__ import annotations

import ipaddress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.controllers import node_health, node_ipam, taint_eviction
from control.controllers.node_health import SignOfLife, ZoneState
from control.controllers.node_ipam import NodeIPAMController, parse_ranges
from control.controllers.node_lifecycle import NodeLifecycleController
from control.controllers.rate_limit import TokenBucket
from control.controllers.taint_eviction import TaintEvictionController
from kube import objects, times
from kube.clock import VirtualClock
from kube.models import core_v1, meta_v1
from tests.control.controllers.cluster import NOW, Cluster, pod, running, stamp

UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"


def node(
    name: str = "n1",
    *,
    ready: str | None = "True",
    taints: tuple[tuple[str, str], ...] = (),
    labels: dict[str, str] | None = None,
    unschedulable: bool = False,
    pressure: str = "",
    heartbeat: str | None = None,
) -> core_v1.Node:
    conditions = []
    if ready is not None:
        conditions.append(
            core_v1.NodeCondition(
                type="Ready", status=ready, lastHeartbeatTime=heartbeat or stamp(), lastTransitionTime=stamp(100)
            )
        )
    if pressure:
        conditions.append(core_v1.NodeCondition(type=pressure, status="True"))
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name=name, uid=f"uid-{name}", labels=labels or {}, creationTimestamp=stamp(100)),
        spec=core_v1.NodeSpec(
            taints=[core_v1.Taint(key=k, effect=e, timeAdded=stamp()) for k, e in taints],
            unschedulable=unschedulable or None,
        ),
        status=core_v1.NodeStatus(conditions=conditions),
    )


def pairs(taints: list[core_v1.Taint] | None) -> list[tuple[Any, Any]] | None:
    return None if taints is None else [(t.key, t.effect) for t in taints]


@pytest.mark.parametrize(
    ("found", "evict", "expected"),
    [
        (node(), False, None),
        (node(ready="False"), False, [(NOT_READY, "NoSchedule")]),
        (node(ready="False"), True, [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        (node(ready="Unknown"), True, [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        (node(taints=((NOT_READY, "NoSchedule"), ("mine", "NoExecute"))), False, [("mine", "NoExecute")]),
        (node(ready="Unknown", taints=((NOT_READY, "NoSchedule"),)), False, [(UNREACHABLE, "NoSchedule")]),
        (node(ready=None, taints=((NOT_READY, "NoSchedule"),)), True, None),
        (node(ready="True", taints=((UNREACHABLE, "NoExecute"),)), True, []),
        (node(unschedulable=True), False, [("node.kubernetes.io/unschedulable", "NoSchedule")]),
        (node(pressure="DiskPressure"), False, [("node.kubernetes.io/disk-pressure", "NoSchedule")]),
        (node(pressure="MemoryPressure"), False, [("node.kubernetes.io/memory-pressure", "NoSchedule")]),
    ],
)
def test_taints(found: core_v1.Node, evict: bool, expected: list[tuple[str, str]] | None) -> None:
    assert pairs(node_health.taints(found, evict=evict, now=NOW)) == expected


def test_signs_of_life_are_told_by_our_own_clock() -> None:
    first = node_health.sign_of_life(node(), "t1", None, now=5.0)
    assert node_health.sign_of_life(node(), "t1", first, now=50.0) is first
    assert node_health.sign_of_life(node(), "t2", first, now=50.0).seen == 50.0
    posted = node(heartbeat=stamp(-10))
    assert node_health.sign_of_life(posted, "t1", first, now=50.0).seen == 50.0
    unknown = node(ready="Unknown", heartbeat=stamp(-10))
    assert node_health.sign_of_life(unknown, "t1", first, now=50.0) is first, "our own words are no sign of life"
    assert isinstance(first, SignOfLife)


def test_silent_conditions() -> None:
    conditions = node_health.silent_conditions(node(pressure="DiskPressure"), now=NOW)
    assert conditions is not None
    assert {c.type: (c.status, c.reason) for c in conditions} == {
        "Ready": ("Unknown", "NodeStatusUnknown"),
        "DiskPressure": ("Unknown", "NodeStatusUnknown"),
        "MemoryPressure": ("Unknown", "NodeStatusNeverUpdated"),
        "PIDPressure": ("Unknown", "NodeStatusNeverUpdated"),
    }
    silent = node()
    silent.status.conditions = conditions  # type: ignore[union-attr]
    assert node_health.silent_conditions(silent, now=NOW + 99) is None


@pytest.mark.parametrize(
    ("ready", "lost", "expected"),
    [
        (1, 0, ZoneState.NORMAL),
        (0, 1, ZoneState.FULL_DISRUPTION),
        (1, 2, ZoneState.NORMAL),
        (2, 3, ZoneState.PARTIAL_DISRUPTION),
        (3, 3, ZoneState.NORMAL),
    ],
)
def test_zone_states(ready: int, lost: int, expected: ZoneState) -> None:
    nodes = [node(f"r{i}") for i in range(ready)] + [node(f"l{i}", ready="Unknown") for i in range(lost)]
    assert node_health.zone_states(nodes) == {"/": expected}


def test_all_lost_needs_every_zone() -> None:
    here = node("a", ready="Unknown", labels={"topology.kubernetes.io/zone": "a"})
    there = node("b", labels={"topology.kubernetes.io/zone": "b"})
    assert not node_health.all_lost(node_health.zone_states([here, there]))
    assert node_health.all_lost(node_health.zone_states([here]))
    assert not node_health.all_lost({})


async def test_token_bucket() -> None:
    clock = VirtualClock()
    bucket = TokenBucket(clock, rate=0.1)
    assert bucket.take() is None
    assert bucket.take() == pytest.approx(10)
    await clock.advance(10)
    assert bucket.take() is None
    bucket.rate = 0
    assert (bucket.take() or 0) > 0


# --- eviction ---------------------------------------------------------------------------------------------------------


def toleration(key: str | None, seconds: int | None = None, **fields: Any) -> core_v1.Toleration:
    fields.setdefault("operator", "Exists")
    return core_v1.Toleration(key=key, tolerationSeconds=seconds, **fields)


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], 0.0),
        ([toleration(UNREACHABLE)], None),
        ([toleration(UNREACHABLE, 300)], 300.0),
        ([toleration(UNREACHABLE, 300), toleration(None, 60)], 60.0),
        ([toleration(None)], None),
        ([toleration(UNREACHABLE, -5)], 0.0),
        ([toleration("other")], 0.0),
        ([toleration(UNREACHABLE, effect="NoSchedule")], 0.0),
        ([toleration(UNREACHABLE, operator="Equal", value="x")], 0.0),
        ([toleration(UNREACHABLE, operator="Equal")], None),
        ([toleration(None, operator="Equal")], 0.0),
    ],
)
def test_when_a_pod_must_go(tolerations: list[core_v1.Toleration], expected: float | None) -> None:
    found = pod(node="n1")
    found.spec.tolerations = tolerations  # type: ignore[union-attr]
    tainted = node(taints=((UNREACHABLE, "NoExecute"),))
    assert taint_eviction.plan(found, tainted, now=NOW, first_seen=NOW) == expected
    assert taint_eviction.plan(found, node(taints=((UNREACHABLE, "NoSchedule"),)), now=NOW, first_seen=NOW) is None
    later = taint_eviction.plan(found, tainted, now=NOW + 1000, first_seen=NOW)
    assert later == (None if expected is None else 0.0)


def test_a_taint_without_a_date_counts_from_the_first_look() -> None:
    found = pod(node="n1")
    found.spec.tolerations = [toleration(None, 100)]  # type: ignore[union-attr]
    tainted = node(taints=((UNREACHABLE, "NoExecute"),))
    tainted.spec.taints[0].timeAdded = None  # type: ignore[union-attr]
    assert taint_eviction.plan(found, tainted, now=NOW + 30, first_seen=NOW) == 70.0


# --- together, on virtual time ----------------------------------------------------------------------------------------


def lease(name: str, cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "renewTime": times.now_micro(cluster.clock)},
    }


async def live(cluster: Cluster, seconds: float, *names: str) -> None:
    """Let time pass while these nodes renew their leases."""
    for _ in range(int(seconds // 10)):
        for name in names:
            cluster.api.put(lease(name, cluster))
        await cluster.clock.advance(10)
    await cluster.settle()


def ready_of(cluster: Cluster, name: str) -> str:
    found = cluster.api.find("Node", name)
    assert found is not None
    return str(next(c["status"] for c in found["status"]["conditions"] if c["type"] == "Ready"))


def taints_of(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    found = cluster.api.find("Node", name)
    assert found is not None
    return {(t["key"].rpartition("/")[2], t["effect"]) for t in found["spec"].get("taints", [])}


def put_pod(cluster: Cluster, name: str, on: str, seconds: int | None = 300) -> None:
    made = pod(name, node=on, ready=True)
    if seconds is not None:
        made.spec.tolerations = [toleration(UNREACHABLE, seconds), toleration(NOT_READY, seconds)]  # type: ignore[union-attr]
    cluster.api.put(objects.to_dict(made))


def seeds(*names: str) -> tuple[dict[str, Any], ...]:
    return tuple(objects.to_dict(node(name)) for name in names)


async def test_a_node_that_renews_its_lease_stays_ready_and_costs_nothing() -> None:
    async with running(NodeLifecycleController, seed=seeds("n1")) as cluster:
        await live(cluster, 300, "n1")
        assert ready_of(cluster, "n1") == "True"
        assert cluster.api.requests == []


async def test_a_lost_node() -> None:
    async with running(NodeLifecycleController, TaintEvictionController, seed=seeds("n1", "n2")) as cluster:
        put_pod(cluster, "tolerant", "n1")
        put_pod(cluster, "hasty", "n1", 10)
        put_pod(cluster, "elsewhere", "n2")
        await live(cluster, 30, "n1", "n2")
        await live(cluster, 20, "n2")
        assert ready_of(cluster, "n1") == "True"
        await live(cluster, 20, "n2")
        assert ready_of(cluster, "n1") == "Unknown"
        assert taints_of(cluster, "n1") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
        tolerant = cluster.api.find("Pod", "tolerant", "default")
        assert tolerant is not None
        assert tolerant["status"]["conditions"][0]["status"] == "False"
        await live(cluster, 20, "n2")
        assert cluster.api.find("Pod", "hasty", "default") is None
        assert cluster.api.find("Pod", "tolerant", "default") is not None
        await live(cluster, 300, "n2")
        assert cluster.api.find("Pod", "tolerant", "default") is None
        assert cluster.api.find("Pod", "elsewhere", "default") is not None
        # it comes back
        cluster.api.put(objects.to_dict(node("n1", heartbeat=times.now_rfc3339(cluster.clock))) | {})
        await live(cluster, 20, "n1", "n2")
        assert taints_of(cluster, "n1") == set()


async def test_a_node_that_returns_in_time_keeps_its_pods() -> None:
    async with running(NodeLifecycleController, TaintEvictionController, seed=seeds("n1", "n2")) as cluster:
        put_pod(cluster, "web", "n1")
        await live(cluster, 20, "n1", "n2")
        await live(cluster, 200, "n2")
        assert ready_of(cluster, "n1") == "Unknown"
        found = cluster.api.find("Node", "n1")
        assert found is not None
        back = objects.to_dict(node("n1", heartbeat=times.now_rfc3339(cluster.clock)))
        cluster.api.change("Node", "n1", status=back["status"])
        await live(cluster, 600, "n1", "n2")
        assert cluster.api.find("Pod", "web", "default") is not None
        assert taints_of(cluster, "n1") == set()


async def test_when_everything_is_lost_nobody_is_evicted() -> None:
    async with running(NodeLifecycleController, TaintEvictionController, seed=seeds("n1", "n2", "n3")) as cluster:
        put_pod(cluster, "web", "n1", None)
        await live(cluster, 20, "n1", "n2", "n3")
        await cluster.advance(3600)
        assert [ready_of(cluster, n) for n in ("n1", "n2", "n3")] == ["Unknown"] * 3
        assert taints_of(cluster, "n1") == {("unreachable", "NoSchedule")}
        assert cluster.api.find("Pod", "web", "default") is not None


async def test_a_single_node_is_never_evicted_from() -> None:
    async with running(NodeLifecycleController, TaintEvictionController, seed=seeds("n1")) as cluster:
        put_pod(cluster, "web", "n1", 0)
        await cluster.advance(7200)
        assert cluster.api.find("Pod", "web", "default") is not None


async def test_evictions_are_spread_over_time() -> None:
    names = [f"n{i}" for i in range(6)]
    async with running(NodeLifecycleController, seed=seeds(*names)) as cluster:
        await live(cluster, 20, *names)
        await live(cluster, 40, *names[2:])
        with_no_execute = [n for n in names if ("unreachable", "NoExecute") in taints_of(cluster, n)]
        assert len(with_no_execute) == 1
        await live(cluster, 20, *names[2:])
        with_no_execute = [n for n in names if ("unreachable", "NoExecute") in taints_of(cluster, n)]
        assert len(with_no_execute) == 2


async def test_a_node_that_never_reports_gets_longer() -> None:
    async with running(NodeLifecycleController) as cluster:
        cluster.api.put(objects.to_dict(node("n1", ready=None)))
        await cluster.advance(50)
        found = cluster.api.find("Node", "n1")
        assert found is not None
        assert "conditions" not in found["status"]
        await cluster.advance(15)
        assert ready_of(cluster, "n1") == "Unknown"


# --- pod ranges -------------------------------------------------------------------------------------------------------


def net(text: str) -> Any:
    return ipaddress.ip_network(text)


@pytest.mark.parametrize(
    ("pool", "taken", "expected"),
    [
        ("10.244.0.0/16", [], "10.244.0.0/24"),
        ("10.244.0.0/16", ["10.244.0.0/24", "10.244.2.0/24"], "10.244.1.0/24"),
        ("10.244.0.0/16", ["10.244.0.0/22"], "10.244.4.0/24"),
        ("10.244.0.0/16", ["10.244.0.128/25"], "10.244.1.0/24"),
        ("10.244.0.0/16", ["10.0.0.0/8"], None),
        ("10.244.0.0/23", ["10.244.0.0/24", "10.244.1.0/24"], None),
        ("10.244.0.0/26", [], "10.244.0.0/26"),
        ("fd00::/56", ["fd00::/64"], "fd00:0:0:1::/64"),
    ],
)
def test_lowest_free(pool: str, taken: list[str], expected: str | None) -> None:
    (found,) = parse_ranges(pool)
    part = node_ipam.lowest_free(found, [net(t) for t in taken])
    assert part == (net(expected) if expected else None)


def test_a_range_just_given_back_waits_its_turn() -> None:
    (found,) = parse_ranges("10.244.0.0/23")
    assert node_ipam.lowest_free(found, [], avoid=[net("10.244.0.0/24")]) == net("10.244.1.0/24")
    assert node_ipam.lowest_free(found, [net("10.244.1.0/24")], avoid=[net("10.244.0.0/24")]) == net("10.244.0.0/24")


@given(st.lists(st.integers(0, 15), max_size=40))
def test_ranges_never_collide(steps: list[int]) -> None:
    ranges = parse_ranges("10.244.0.0/20,fd00::/60")
    nodes: dict[int, list[Any]] = {}
    for step in steps:
        if step in nodes:
            del nodes[step]
            continue
        taken = [n for parts in nodes.values() for n in parts]
        parts = node_ipam.plan(ranges, taken)
        assert parts is not None
        assert not any(p.overlaps(t) for p in parts for t in taken if p.version == t.version)
        nodes[step] = parts


async def test_nodes_get_ranges_and_give_them_back() -> None:
    controller = partial(NodeIPAMController, ranges=parse_ranges("10.244.0.0/22"))
    kept = objects.to_dict(node("old"))
    kept["spec"] = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}
    async with running(controller, seed=(kept,)) as cluster:
        cluster.api.hold()
        for name in ("a", "b", "c"):
            cluster.api.put(objects.to_dict(node(name)))
        cluster.api.release()
        await cluster.settle()
        found = {n["metadata"]["name"]: n["spec"]["podCIDR"] for n in cluster.api.all("Node")}
        assert len({*found.values()}) == 4
        assert found["old"] == "10.244.1.0/24"
        cluster.api.put(objects.to_dict(node("late")))
        await cluster.settle()
        assert "CIDRNotAvailable" in cluster.notes.reasons()
        cluster.api.remove("Node", "b")
        await cluster.settle()
        late = cluster.api.find("Node", "late")
        assert late is not None
        assert late["spec"]["podCIDR"] == found["b"]
