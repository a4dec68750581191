"""What one scheduling decision costs: numpy over all nodes, beside the same questions asked node by node in Python."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.figure import Figure
from control.scheduler.decision import decide
from control.scheduler.pod_info import CPU, MEMORY, PODS, PodInfo, pod_info
from control.scheduler.registry import default_filters, default_scores
from control.scheduler.snapshot import Snapshot
from kube.models import core_v1, meta_v1

GROUP = "scheduler: one decision (all filters and scores)"


def run(*, sizes: tuple[int, ...] = (100, 1000, 5000), decisions: int = 300) -> list[Figure]:
    """µs for a decision and the placement of the pod, at several numbers of nodes."""
    figures = []
    for size in sizes:
        pods = [pod_info(_pod(i)) for i in range(decisions)]
        arrays = _with_arrays(size, pods)
        loops = _node_by_node(size, pods[: max(20, decisions * 100 // size)])
        note = f"plain Python, over resources alone: {loops:,.0f} µs, {loops / arrays:.1f} × as long"
        figures.append(Figure(GROUP, f"{size:,} nodes", arrays, "µs", note=note))
        social = _with_arrays(size, [pod_info(_social(i)) for i in range(decisions)])
        note = "required anti-affinity, spread over zones, node affinity"
        figures.append(Figure(GROUP, f"{size:,} nodes, pods with constraints", social, "µs", note=note))
    return figures


def _with_arrays(size: int, pods: list[PodInfo]) -> float:
    snapshot, filters, scores = Snapshot(), default_filters(), default_scores()
    for i in range(size):
        snapshot.set_node(_node(i))
    rng = random.Random(1)  # noqa: S311

    def one(info: PodInfo) -> None:
        decision = decide(info, snapshot, filters, scores, rng)
        assert decision.node, decision.message
        snapshot.place(info, decision.node)

    return _microseconds(one, pods)


@dataclass(slots=True)
class _Room:
    allocatable: dict[str, int]
    requested: dict[str, int]
    ready: bool = True
    unschedulable: bool = False
    taints: tuple[str, ...] = ()


def _node_by_node(size: int, pods: list[PodInfo]) -> float:
    """Readiness, taints, resources; least allocated and balanced: the plainest loop that decides the same."""
    rooms = [_Room({CPU: 8000, MEMORY: 32 << 30, PODS: 110}, {CPU: 0, MEMORY: 0, PODS: 0}) for _ in range(size)]

    def one(info: PodInfo) -> None:
        best, chosen = -1.0, None
        for room in rooms:
            if not room.ready or room.unschedulable or room.taints:
                continue
            if any(room.requested[r] + n > room.allocatable[r] for r, n in info.requests.items()):
                continue
            cpu = (room.requested[CPU] + info.scoring[0]) / room.allocatable[CPU]
            memory = (room.requested[MEMORY] + info.scoring[1]) / room.allocatable[MEMORY]
            score = (2 - cpu - memory) / 2 + 1 - abs(cpu - memory) / 2
            if score > best:
                best, chosen = score, room
        assert chosen is not None
        for resource, number in info.requests.items():
            chosen.requested[resource] += number

    return _microseconds(one, pods)


def _microseconds(one: Callable[[PodInfo], None], pods: list[PodInfo]) -> float:
    times = []
    for info in pods:
        start = time.perf_counter()
        one(info)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e6


def _node(i: int) -> core_v1.Node:
    amounts = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    name = f"node-{i}"
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name=name, labels={"kubernetes.io/hostname": name, "zone": f"z{i % 3}"}),
        spec=core_v1.NodeSpec(),
        status=core_v1.NodeStatus(
            capacity=dict(amounts),
            allocatable=dict(amounts),
            conditions=[core_v1.NodeCondition(type="Ready", status="True")],
        ),
    )


def _pod(i: int) -> core_v1.Pod:
    requests: dict[str, str | int | float] = {"cpu": "50m", "memory": "64Mi"}
    container = core_v1.Container(
        name="main", image="ktool.test/none:1", resources=core_v1.ResourceRequirements(requests=requests)
    )
    owner = meta_v1.OwnerReference(
        apiVersion="apps/v1", kind="ReplicaSet", name="rs", uid=f"rs-{i % 10}", controller=True
    )
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(name=f"p-{i}", namespace="default", uid=f"uid-{i}", ownerReferences=[owner]),
        spec=core_v1.PodSpec(containers=[container]),
    )


def _social(i: int) -> core_v1.Pod:
    """A pod that asks about nodes' labels and about other pods."""
    pod = _pod(i)
    app = f"app-{i % 10}"
    pod.metadata.labels = {"app": app}
    selector = meta_v1.LabelSelector(matchLabels={"app": app})
    term = core_v1.PodAffinityTerm(topologyKey="kubernetes.io/hostname", labelSelector=selector)
    zones = core_v1.NodeSelectorRequirement(key="zone", operator="In", values=["z0", "z1", "z2"])
    assert pod.spec is not None
    pod.spec.affinity = core_v1.Affinity(
        nodeAffinity=core_v1.NodeAffinity(
            requiredDuringSchedulingIgnoredDuringExecution=core_v1.NodeSelector(
                nodeSelectorTerms=[core_v1.NodeSelectorTerm(matchExpressions=[zones])]
            )
        ),
        podAntiAffinity=core_v1.PodAntiAffinity(requiredDuringSchedulingIgnoredDuringExecution=[term]),
    )
    pod.spec.topologySpreadConstraints = [
        core_v1.TopologySpreadConstraint(
            maxSkew=1, topologyKey="zone", whenUnsatisfiable="DoNotSchedule", labelSelector=selector
        )
    ]
    return pod
