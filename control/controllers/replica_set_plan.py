"""What a ReplicaSet needs: how many pods to create, which to delete, and the status to report. Pure.

Which pods go first when there are too many, as in Kubernetes (`ActivePodsWithRanks`): the ones whose loss costs least.
Unassigned before assigned, pending before running, not ready before ready, lower deletion cost first, then pods that
share a node with many of their siblings, then the youngest, those that restarted most, and last by age.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from control.controllers import pod_state
from kube import objects, times
from kube.models import apps_v1, core_v1
from kube.selector import Selector, from_map

BURST_REPLICAS = 500
POD_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
REPLICA_FAILURE = "ReplicaFailure"

_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


class Observed(Struct, frozen=True):
    """What a ReplicaSet's plan looks at: its active pods, the active pods of its siblings (same owner), the time."""

    replica_set: apps_v1.ReplicaSet
    pods: Sequence[core_v1.Pod]
    siblings: Sequence[core_v1.Pod]
    now: float


class Plan(Struct, frozen=True):
    """Create `create` pods from the template, or delete `delete` in that order; never both."""

    create: int = 0
    delete: tuple[core_v1.Pod, ...] = ()


def plan(observed: Observed) -> Plan:
    """Difference between the replicas wanted and the active pods, at most BURST_REPLICAS at a time."""
    difference = len(observed.pods) - wanted_replicas(observed.replica_set)
    if difference < 0:
        return Plan(create=min(-difference, BURST_REPLICAS))
    if difference == 0:
        return Plan()
    ranked = rank_for_deletion(observed.pods, observed.siblings, observed.now)
    return Plan(delete=tuple(ranked[: min(difference, BURST_REPLICAS)]))


def wanted_replicas(replica_set: apps_v1.ReplicaSet) -> int:
    """`spec.replicas`, 1 if absent."""
    replicas = replica_set.spec.replicas if replica_set.spec else None
    return 1 if replicas is None else replicas


def min_ready_seconds(replica_set: apps_v1.ReplicaSet) -> int:
    """`spec.minReadySeconds`, 0 if absent."""
    return (replica_set.spec.minReadySeconds if replica_set.spec else None) or 0


def rank_for_deletion(pods: Sequence[core_v1.Pod], siblings: Sequence[core_v1.Pod], now: float) -> list[core_v1.Pod]:
    """Pods in the order in which they should go; `siblings` say how crowded each node is."""
    crowd = Counter(pod_state.node_name(pod) for pod in siblings)

    def key(pod: core_v1.Pod) -> tuple[object, ...]:
        node, ready = pod_state.node_name(pod), pod_state.is_ready(pod)
        since = pod_state.ready_since(pod)
        return (
            bool(node),
            _PHASE_RANK.get(pod_state.phase(pod), 2),
            ready,
            deletion_cost(pod),
            -crowd[node] if node else 0,
            # ages are compared by magnitude, so that scaling down does not always hit the same generation of pods
            _magnitude(now - since) if since else -2,
            -pod_state.restarts(pod),
            _magnitude(now - created(pod)),
            objects.uid(pod),
        )

    return sorted(pods, key=key)


def deletion_cost(pod: core_v1.Pod) -> int:
    """The pod's deletion cost annotation (32 bits); 0 if absent or malformed."""
    text = objects.meta(pod).annotations.get(POD_DELETION_COST, "0")
    try:
        cost = int(text)
    except ValueError:
        return 0
    return cost if -(2**31) <= cost < 2**31 else 0


def created(pod: core_v1.Pod) -> float:
    """Moment of creation, 0 if unknown."""
    stamp = objects.meta(pod).creationTimestamp
    return times.parse(stamp) if stamp else 0.0


def _magnitude(age: float) -> int:
    """Age in seconds on a logarithmic scale (base 2)."""
    return int(math.log2(age)) if age >= 1 else -1


def new_pod(replica_set: apps_v1.ReplicaSet) -> core_v1.Pod:
    """The pod to create: the template's metadata and spec, a generated name, owned by the ReplicaSet."""
    assert replica_set.spec is not None
    template = replica_set.spec.template or core_v1.PodTemplateSpec()
    meta = objects.copy(template.metadata) if template.metadata else type(replica_set.metadata)()
    meta.name = None
    meta.generateName = f"{objects.name(replica_set)}-"
    meta.namespace = objects.namespace(replica_set)
    meta.ownerReferences = [objects.owner_reference(replica_set)]
    return core_v1.Pod(metadata=meta, spec=template.spec)


def has_changed(old: core_v1.Pod, new: core_v1.Pod) -> bool:
    """Whether a change of a pod can change the number of replicas, or how many of them are ready."""
    return _facts(old) != _facts(new)


def _facts(pod: core_v1.Pod) -> tuple[object, ...]:
    meta = objects.meta(pod)
    return (
        pod_state.is_active(pod),
        pod_state.is_ready(pod),
        pod_state.ready_since(pod),
        meta.labels,
        meta.ownerReferences,
    )


def slow_start_batches(count: int) -> list[int]:
    """Sizes of creation batches: 1, 2, 4, ... so that a pod that is always refused costs one failure, not `count`."""
    batches = []
    size = 1
    while count > 0:
        batches.append(min(size, count))
        count -= batches[-1]
        size *= 2
    return batches


def status(observed: Observed, failure: tuple[str, str] | None) -> apps_v1.ReplicaSetStatus:
    """The status to report.

    `failure` is (reason, message) of a creation or deletion that failed just now: it becomes the condition
    ReplicaFailure, which goes away with the next success.
    """
    replica_set = observed.replica_set
    assert replica_set.spec is not None
    template = replica_set.spec.template
    template_labels: Selector = from_map(template.metadata.labels if template and template.metadata else {})
    seconds = min_ready_seconds(replica_set)
    ready = [pod for pod in observed.pods if pod_state.is_ready(pod)]
    available = [p for p in ready if pod_state.is_available(p, min_ready_seconds=seconds, now=observed.now)]
    old = replica_set.status or apps_v1.ReplicaSetStatus()
    return apps_v1.ReplicaSetStatus(
        replicas=len(observed.pods),
        fullyLabeledReplicas=sum(template_labels.matches(objects.meta(pod).labels) for pod in observed.pods),
        readyReplicas=len(ready),
        availableReplicas=len(available),
        observedGeneration=objects.meta(replica_set).generation,
        conditions=_conditions(old.conditions, failure, observed.now),
    )


def _conditions(
    old: Sequence[apps_v1.ReplicaSetCondition], failure: tuple[str, str] | None, now: float
) -> list[apps_v1.ReplicaSetCondition]:
    others = [c for c in old if c.type != REPLICA_FAILURE]
    if failure is None:
        return others
    reason, message = failure
    before = objects.condition(old, REPLICA_FAILURE)
    if before is not None and before.status == "True" and before.reason == reason:
        return [*others, before]
    fresh = apps_v1.ReplicaSetCondition(
        type=REPLICA_FAILURE, status="True", reason=reason, message=message, lastTransitionTime=times.rfc3339(now)
    )
    return [*others, fresh]


def next_available_in(observed: Observed) -> float | None:
    """Seconds until the next ready pod becomes available (minReadySeconds); None if none is on the way."""
    seconds = min_ready_seconds(observed.replica_set)
    if seconds <= 0:
        return None
    waits = [
        pod_state.ready_since(pod) + seconds - observed.now
        for pod in observed.pods
        if pod_state.is_ready(pod) and not pod_state.is_available(pod, min_ready_seconds=seconds, now=observed.now)
    ]
    return max(0.0, min(waits)) + 0.01 if waits else None
