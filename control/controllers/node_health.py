"""Is a node alive, and what follows for its conditions and taints. Pure (Kubernetes: node lifecycle, taints).

A kubelet shows life by renewing its Lease and by posting its status. What counts is when the controller saw a renewal,
by its own clock: the node's clock may be wrong. Without a sign of life for the grace period the conditions that only
the kubelet knows become Unknown. Conditions become taints: NoSchedule keeps new pods away, NoExecute lets
taint-eviction remove those that don't tolerate it for longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from msgspec import Struct

from kube import objects, times
from kube.models import core_v1

GRACE_SECONDS = 40.0
STARTUP_GRACE_SECONDS = 60.0

READY = "Ready"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
UNREACHABLE_TAINT = "node.kubernetes.io/unreachable"
UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
NO_SCHEDULE = "NoSchedule"
NO_EXECUTE = "NoExecute"

# Conditions that only the kubelet can know; of these Ready and others become Unknown when it is silent.
_KUBELET_CONDITIONS = (READY, "MemoryPressure", "DiskPressure", "PIDPressure")
_PRESSURE_TAINTS = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_OWN_NO_SCHEDULE = frozenset({NOT_READY_TAINT, UNREACHABLE_TAINT, UNSCHEDULABLE_TAINT, *_PRESSURE_TAINTS.values()})
_OWN_NO_EXECUTE = frozenset({NOT_READY_TAINT, UNREACHABLE_TAINT})

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"


class SignOfLife(Struct, frozen=True):
    """The last thing heard of a node: what it said (to tell a new word from an old one) and when we saw it.

    `seen` is monotonic seconds.
    """

    lease_renewed: str
    status_posted: str
    seen: float


def sign_of_life(node: core_v1.Node, lease_renewed: str | None, before: SignOfLife | None, *, now: float) -> SignOfLife:
    """The sign of life after looking at a node and its Lease: `before` itself if there is nothing new."""
    ready = ready_condition(node)
    renewed, posted = lease_renewed or "", (ready.lastHeartbeatTime if ready else None) or ""
    if before is None:
        return SignOfLife(renewed, posted, now)
    # A status that we wrote ourselves (Unknown) is not the node speaking.
    spoke = posted != before.status_posted and not (ready is not None and ready.status == "Unknown")
    if renewed != before.lease_renewed or spoke:
        return SignOfLife(renewed, posted, now)
    return before


def ready_condition(node: core_v1.Node) -> core_v1.NodeCondition | None:
    """The node's condition Ready."""
    found: core_v1.NodeCondition | None = objects.condition(node.status.conditions if node.status else [], READY)
    return found


def is_ready(node: core_v1.Node) -> bool:
    """Whether the node's condition Ready is True."""
    found = ready_condition(node)
    return found is not None and found.status == "True"


def silent_conditions(node: core_v1.Node, *, now: float) -> list[core_v1.NodeCondition] | None:
    """All conditions of a node that gives no sign of life; None if they are what they should be already.

    `now` is seconds since 1970.
    """
    conditions = list(node.status.conditions) if node.status else []
    stamp = times.rfc3339(now)
    changed = False
    for type_ in _KUBELET_CONDITIONS:
        current = objects.condition(conditions, type_)
        if current is None:
            conditions.append(
                core_v1.NodeCondition(
                    type=type_,
                    status="Unknown",
                    reason="NodeStatusNeverUpdated",
                    message="Kubelet never posted node status.",
                    lastHeartbeatTime=objects.meta(node).creationTimestamp,
                    lastTransitionTime=stamp,
                )
            )
            changed = True
        elif current.status != "Unknown":
            fresh = core_v1.NodeCondition(
                type=type_,
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                lastHeartbeatTime=current.lastHeartbeatTime,
                lastTransitionTime=stamp,
            )
            conditions[conditions.index(current)] = fresh
            changed = True
    return conditions if changed else None


def taints(node: core_v1.Node, *, evict: bool, now: float) -> list[core_v1.Taint] | None:
    """The node's taints as its conditions want them; None if they are so already.

    `evict` says whether NoExecute may be set on a node that is not ready (it is rate limited, and off when everything
    seems lost); it is always taken away from one that is. Other taints are left alone.
    """
    conditions = node.status.conditions if node.status else []
    wanted: list[tuple[str, str]] = []
    ready = ready_condition(node)
    trouble = None
    if ready is not None and ready.status == "False":
        trouble = NOT_READY_TAINT
    elif ready is None or ready.status == "Unknown":
        trouble = UNREACHABLE_TAINT
    if trouble is not None and ready is not None:
        wanted.append((trouble, NO_SCHEDULE))
    for type_, key in _PRESSURE_TAINTS.items():
        found = objects.condition(conditions, type_)
        if found is not None and found.status == "True":
            wanted.append((key, NO_SCHEDULE))
    if node.spec is not None and node.spec.unschedulable:
        wanted.append((UNSCHEDULABLE_TAINT, NO_SCHEDULE))
    if trouble is not None and ready is not None and evict:
        wanted.append((trouble, NO_EXECUTE))
    current = list(node.spec.taints) if node.spec else []
    kept = [t for t in current if not _is_own(t, ready) or (t.key, t.effect) in wanted]
    present = {(t.key, t.effect) for t in kept}
    added = [
        core_v1.Taint(key=key, effect=effect, timeAdded=times.rfc3339(now))
        for key, effect in wanted
        if (key, effect) not in present
    ]
    return [*kept, *added] if added or len(kept) != len(current) else None


def _is_own(taint: core_v1.Taint, ready: core_v1.NodeCondition | None) -> bool:
    """Whether the taint is this controller's to take away.

    A node that has not reported yet keeps the not-ready taint it was registered with.
    """
    if ready is None and taint.key == NOT_READY_TAINT:
        return False
    if taint.effect == NO_SCHEDULE:
        return taint.key in _OWN_NO_SCHEDULE
    return taint.effect == NO_EXECUTE and taint.key in _OWN_NO_EXECUTE


def has_no_execute(node: core_v1.Node) -> bool:
    """Whether the node carries one of the NoExecute taints set here."""
    return any(t.effect == NO_EXECUTE and t.key in _OWN_NO_EXECUTE for t in (node.spec.taints if node.spec else []))


# --- zones: how much is lost -----------------------------------------------------------------------------------------


class ZoneState(Enum):
    """How a zone does (Kubernetes: `ZoneState`)."""

    NORMAL = "Normal"
    PARTIAL_DISRUPTION = "PartialDisruption"
    FULL_DISRUPTION = "FullDisruption"


EVICTION_RATE = 0.1
SECONDARY_EVICTION_RATE = 0.01
LARGE_ZONE = 50
UNHEALTHY_SHARE = 0.55


def zone_of(node: core_v1.Node) -> str:
    """Region and zone of a node; nodes without labels share one zone."""
    labels = objects.meta(node).labels
    return f"{labels.get(REGION_LABEL, '')}/{labels.get(ZONE_LABEL, '')}"


def zone_states(nodes: Iterable[core_v1.Node]) -> dict[str, ZoneState]:
    """State of each zone: full disruption when no node is ready, partial when more than half are not (at least 3)."""
    ready: dict[str, int] = {}
    lost: dict[str, int] = {}
    for node in nodes:
        zone = zone_of(node)
        ready.setdefault(zone, 0)
        lost.setdefault(zone, 0)
        if is_ready(node):
            ready[zone] += 1
        else:
            lost[zone] += 1
    return {zone: _state(ready[zone], lost[zone]) for zone in ready}


def _state(ready: int, lost: int) -> ZoneState:
    if ready == 0 and lost > 0:
        return ZoneState.FULL_DISRUPTION
    if lost > 2 and lost / (ready + lost) >= UNHEALTHY_SHARE:
        return ZoneState.PARTIAL_DISRUPTION
    return ZoneState.NORMAL


def all_lost(states: Mapping[str, ZoneState]) -> bool:
    """Whether every zone is fully disrupted: then it is the master that is cut off, and nobody must be evicted."""
    return bool(states) and all(state is ZoneState.FULL_DISRUPTION for state in states.values())


def eviction_rate(state: ZoneState, size: int) -> float:
    """Nodes per second that may get NoExecute in a zone of `size` nodes."""
    if state is ZoneState.PARTIAL_DISRUPTION:
        return SECONDARY_EVICTION_RATE if size > LARGE_ZONE else 0.0
    return EVICTION_RATE


def not_ready_conditions(pod: core_v1.Pod, *, now: float) -> list[core_v1.PodCondition] | None:
    """Conditions of a pod on a lost node: Ready is False. None if it is not ready already."""
    conditions: Sequence[core_v1.PodCondition] = pod.status.conditions if pod.status else []
    ready = objects.condition(conditions, READY)
    if ready is None or ready.status != "True":
        return None
    fresh = core_v1.PodCondition(
        type=READY, status="False", reason="NodeNotReady", lastTransitionTime=times.rfc3339(now)
    )
    return [fresh if c is ready else c for c in conditions]
