"""Decisions as tables: nodes and placed pods in, the chosen node or Kubernetes' sentence out."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.scheduler.decision import Decision, decide
from control.scheduler.decision_log import DecisionLog, DecisionRecord
from control.scheduler.pod_info import pod_info, pod_requests
from control.scheduler.registry import default_filters, default_scores
from control.scheduler.snapshot import Snapshot
from kube import objects
from kube.models import core_v1
from tests.control.scheduler.build import node, pod


def choose(
    candidate: core_v1.Pod, nodes: list[core_v1.Node], placed: dict[str, list[core_v1.Pod]] | None = None
) -> Decision:
    snapshot = Snapshot()
    for each in nodes:
        snapshot.set_node(each)
    for name, pods in (placed or {}).items():
        for item in pods:
            snapshot.place(pod_info(item), name)
    return decide(pod_info(candidate), snapshot, default_filters(), default_scores(), random.Random(1))


TAINT = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
GPU = {"example.com/gpu": "1"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def affinity(rule: str, *expressions: tuple[str, str, list[str]]) -> dict[str, Any]:
    found = [{"key": k, "operator": o, "values": v} for k, o, v in expressions]
    if rule == REQUIRED:
        return {"nodeAffinity": {rule: {"nodeSelectorTerms": [{"matchExpressions": found}]}}}
    return {"nodeAffinity": {rule: [{"weight": 10, "preference": {"matchExpressions": found}}]}}


@pytest.mark.parametrize(
    ("candidate", "nodes", "placed", "chosen"),
    [
        pytest.param(pod(cpu="3"), [node("a", cpu="2"), node("b")], {}, "b", id="enough cpu"),
        pytest.param(pod(cpu="1"), [node("a"), node("b")], {"a": [pod("x", cpu="2")]}, "b", id="least allocated"),
        pytest.param(pod(nodeName="b"), [node("a"), node("b")], {}, "b", id="node name"),
        pytest.param(
            pod(nodeSelector={"disk": "ssd"}), [node("a"), node("b", labels={"disk": "ssd"})], {}, "b", id="selector"
        ),
        pytest.param(pod(), [node("a", taints=[TAINT]), node("b")], {}, "b", id="taint"),
        pytest.param(
            pod(cpu="3", tolerations=[{"key": "dedicated", "operator": "Exists"}]),
            [node("a", taints=[TAINT]), node("b", cpu="1")],
            {},
            "a",
            id="toleration",
        ),
        pytest.param(
            pod(affinity=affinity(REQUIRED, ("zone", "In", ["x", "y"]))),
            [node("a", labels={"zone": "z"}), node("b", labels={"zone": "y"})],
            {},
            "b",
            id="required affinity",
        ),
        pytest.param(
            pod(affinity=affinity(PREFERRED, ("zone", "In", ["y"]))),
            [node("a", labels={"zone": "z"}), node("b", labels={"zone": "y"})],
            {},
            "b",
            id="preferred affinity",
        ),
        pytest.param(pod(), [node("a", unschedulable=True), node("b")], {}, "b", id="cordoned"),
        pytest.param(pod(), [node("a", ready="False"), node("b")], {}, "b", id="not ready"),
        pytest.param(
            pod(ports=[{"containerPort": 80, "hostPort": 80}]),
            [node("a"), node("b")],
            {"a": [pod("x", ports=[{"containerPort": 80, "hostPort": 80}])]},
            "b",
            id="host port",
        ),
        pytest.param(pod(requests=GPU), [node("a"), node("b", resources=GPU)], {}, "b", id="extended resource"),
        pytest.param(
            pod(owner="rs"),
            [node("a", cpu="64", memory="64Gi"), node("b")],
            {"a": [pod("x", owner="rs")]},
            "b",
            id="spreading",
        ),
        pytest.param(
            pod(image="big:1"),
            [node("a"), node("b", images=[{"names": ["big:1"], "sizeBytes": 900 << 20}])],
            {},
            "b",
            id="image locality",
        ),
        pytest.param(
            pod(),
            [node("a", taints=[TAINT | {"effect": "PreferNoSchedule"}]), node("b")],
            {},
            "b",
            id="prefer no schedule",
        ),
    ],
)
def test_chooses(
    candidate: core_v1.Pod, nodes: list[core_v1.Node], placed: dict[str, list[core_v1.Pod]], chosen: str
) -> None:
    assert choose(candidate, nodes, placed).node == chosen


@pytest.mark.parametrize(
    ("candidate", "nodes", "message"),
    [
        (pod(), [], "no nodes available to schedule pods"),
        (
            pod(cpu="8", memory="1Ti"),
            [node("a"), node("b"), node("c", taints=[TAINT])],
            "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}, 2 Insufficient cpu, "
            "2 Insufficient memory.",
        ),
        (pod(requests=GPU), [node("a")], "0/1 nodes are available: 1 Insufficient example.com/gpu."),
        (pod(), [node("a", pods="0")], "0/1 nodes are available: 1 Too many pods."),
        (
            pod(nodeSelector={"x": "y"}),
            [node("a")],
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            pod(),
            [node("a", unschedulable=True), node("b", ready="Unknown")],
            "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, "
            "1 node(s) were unschedulable.",
        ),
    ],
)
def test_explains(candidate: core_v1.Pod, nodes: list[core_v1.Node], message: str) -> None:
    decision = choose(candidate, nodes)
    assert decision.node == ""
    assert decision.message == message


def test_requests_count_init_containers_by_their_largest_and_sidecars_always() -> None:
    def container(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    spec = objects.from_dict(
        {
            "initContainers": [container("s", "100m", restartPolicy="Always"), container("i", "1")],
            "containers": [container("a", "200m"), container("b", "300m")],
            "overhead": {"cpu": "50m"},
        },
        core_v1.PodSpec,
    )
    assert pod_requests(spec) == {"cpu": 1100 + 50, "pods": 1}


MOVES = st.lists(
    st.tuples(st.sampled_from(["place", "remove", "drop", "add"]), st.integers(0, 5), st.integers(0, 3)), max_size=60
)


@given(MOVES)
def test_snapshot_always_equals_a_recount(moves: list[tuple[str, int, int]]) -> None:
    snapshot = Snapshot()
    nodes: set[str] = set()
    placed: dict[str, str] = {}
    for move, pod_number, node_number in moves:
        name, where = f"p{pod_number}", f"n{node_number}"
        match move:
            case "place":
                snapshot.place(pod_info(pod(name, cpu=f"{pod_number + 1}00m", owner="o")), where)
                placed[f"default/{name}"] = where
            case "remove":
                assert snapshot.remove(f"default/{name}") == (placed.pop(f"default/{name}", None) is not None)
            case "drop":
                snapshot.remove_node(where)
                nodes.discard(where)
            case "add":
                snapshot.set_node(node(where))
                nodes.add(where)
    assert {row.name for row in snapshot.rows} == nodes
    for row in snapshot.rows:
        own = [key for key, where in placed.items() if where == row.name]
        index = snapshot.row_of[row.name]
        assert snapshot.requested[index][snapshot.columns["pods"]] == len(own)
        assert snapshot.requested[index][0] == sum((int(key[-1]) + 1) * 100 for key in own)
        assert snapshot.owner_counts("o")[index] == len(own)


def test_a_resource_that_no_node_knows_is_counted_when_a_node_brings_it() -> None:
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    snapshot.place(pod_info(pod("x", requests=GPU)), "a")  # by its nodeName: nobody asked the scheduler
    assert snapshot.requested[0][snapshot.columns["example.com/gpu"]] == 1
    assert snapshot.set_node(node("a", resources=GPU))
    decision = decide(pod_info(pod("y", requests=GPU)), snapshot, default_filters(), default_scores(), random.Random(1))
    assert decision.message == "0/1 nodes are available: 1 Insufficient example.com/gpu."
    snapshot.remove("default/x")
    assert snapshot.requested[0].tolist() == [0, 0, 0, 0, 0]


def test_a_new_resource_of_a_node_is_news_and_a_heartbeat_is_not() -> None:
    snapshot = Snapshot()
    assert snapshot.set_node(node("a"))
    assert not snapshot.set_node(node("a"))
    assert snapshot.set_node(node("a", resources=GPU))
    assert snapshot.set_node(node("a"))
    assert snapshot.set_node(node("a", labels={"x": "y"}))


def test_a_placed_pod_whose_labels_change_is_counted_by_the_new_ones() -> None:
    near = {
        "podAffinity": {
            REQUIRED: [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}]
        }
    }
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    snapshot.place(pod_info(pod("x")), "a")
    candidate = pod_info(pod("y", affinity=near))

    def found() -> str:
        return decide(candidate, snapshot, default_filters(), default_scores(), random.Random(1)).node

    assert found() == ""
    assert snapshot.place(pod_info(pod("x", labels={"a": "b"})), "a")
    assert found() == "a"
    assert not snapshot.place(pod_info(pod("x", labels={"a": "b"})), "a")


def test_the_log_remembers_the_latest_decisions() -> None:
    log = DecisionLog(kept=3)
    for i in range(5):
        decision = choose(pod(f"p{i}", cpu="3"), [node("a", cpu="2"), node("b"), node("c")])
        log.add(DecisionRecord(1_750_000_000.0, f"default/p{i}", f"uid-p{i}", 1, decision, 0.0001))
    assert [record.key for record in log.recent()] == ["default/p4", "default/p3", "default/p2"]
    assert [record.uid for record in log.of("default/p3")] == ["uid-p3"]
    assert log.of("default/p0") == []
    told = log.recent(1)[0].to_dict()
    assert told["refused"] == [{"filter": "NodeResourcesFit", "nodes": 1, "examples": ["a"]}]
    assert (told["nodes"], told["possible"], told["microseconds"]) == (3, 2, 100)
    assert told["time"] == "2025-06-15T15:06:40Z"
    assert told["scores"].keys() == {"LeastAllocated", "BalancedAllocation"}
