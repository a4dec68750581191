"""What a pod's status means to controllers: active, ready, available (Kubernetes: pod conditions and phases)."""

from __future__ import annotations

from kube import objects, times
from kube.models import core_v1

READY = "Ready"
TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})


def phase(pod: core_v1.Pod) -> str:
    """`Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`; a pod without status is Pending."""
    return (pod.status.phase if pod.status else None) or "Pending"


def is_terminal(pod: core_v1.Pod) -> bool:
    """Whether all containers have ended for good."""
    return phase(pod) in TERMINAL_PHASES


def is_active(pod: core_v1.Pod) -> bool:
    """Whether the pod counts as a replica: neither ended nor being deleted."""
    return not is_terminal(pod) and not objects.is_deleting(pod)


def node_name(pod: core_v1.Pod) -> str:
    """Name of the node that the pod is bound to, or empty."""
    return (pod.spec.nodeName if pod.spec else None) or ""


def condition(pod: core_v1.Pod, type_: str) -> core_v1.PodCondition | None:
    """The pod's condition of a type."""
    found: core_v1.PodCondition | None = objects.condition(pod.status.conditions, type_) if pod.status else None
    return found


def is_ready(pod: core_v1.Pod) -> bool:
    """Whether the condition Ready is True."""
    found = condition(pod, READY)
    return found is not None and found.status == "True"


def ready_since(pod: core_v1.Pod) -> float:
    """Moment (seconds since 1970) since which the pod is ready; 0 if it is not or does not say."""
    found = condition(pod, READY)
    if found is None or found.status != "True" or not found.lastTransitionTime:
        return 0.0
    return times.parse(found.lastTransitionTime)


def is_available(pod: core_v1.Pod, *, min_ready_seconds: int, now: float) -> bool:
    """Whether the pod has been ready for at least `min_ready_seconds`."""
    if not is_ready(pod):
        return False
    if min_ready_seconds <= 0:
        return True
    since = ready_since(pod)
    return since > 0 and since + min_ready_seconds <= now


def restarts(pod: core_v1.Pod) -> int:
    """The largest restart count among the pod's containers."""
    statuses = pod.status.containerStatuses if pod.status else []
    return max((s.restartCount or 0 for s in statuses), default=0)
