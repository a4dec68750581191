"""From a pod's requests and limits to the kernel's numbers (Kubernetes: "Resource Management for Pods").

All pure. CPU is in millicores, memory in bytes unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.runtime.runtime import Resources
from kube import quantity
from kube.models import core_v1, meta_v1

MIN_SHARES = 2
MAX_SHARES = 262144
SHARES_PER_CPU = 1024
PERIOD_MICROSECONDS = 100_000
MIN_QUOTA_MICROSECONDS = 1000

GUARANTEED = "Guaranteed"
BURSTABLE = "Burstable"
BEST_EFFORT = "BestEffort"

OOM_GUARANTEED = -997
OOM_BEST_EFFORT = 1000
CRITICAL_PRIORITY = 2_000_000_000

Quantities = Mapping[str, str]


def container_resources(pod: core_v1.Pod, container: core_v1.Container, *, node_memory: int) -> Resources:
    """The limits of one container in the kernel's units; `node_memory` is the node's capacity in bytes."""
    requests, limits = requests_of(container), limits_of(container)
    has_cpu = "cpu" in requests
    cpu_limit = quantity.milli(limits["cpu"]) if "cpu" in limits else 0
    return Resources(
        cpu_shares=cpu_shares(quantity.milli(requests["cpu"]) if has_cpu else 0),
        cpu_quota=cpu_quota(cpu_limit),
        cpu_period=PERIOD_MICROSECONDS if cpu_limit else 0,
        memory_limit_bytes=quantity.value(limits["memory"]) if "memory" in limits else 0,
        oom_score_adj=oom_score_adj(pod, container, node_memory=node_memory),
    )


def requests_of(container: core_v1.Container) -> dict[str, str]:
    """A container's requests; what it limits without requesting counts as requested in full."""
    found = container.resources
    if found is None:
        return {}
    return _strings(found.limits) | _strings(found.requests)


def limits_of(container: core_v1.Container) -> dict[str, str]:
    """A container's limits."""
    return _strings(container.resources.limits) if container.resources else {}


def cpu_shares(milli_cpu: int) -> int:
    """Relative weight under contention (cgroup v1 `cpu.shares`; the runtime translates it for v2)."""
    return max(MIN_SHARES, min(MAX_SHARES, milli_cpu * SHARES_PER_CPU // 1000))


def cpu_quota(milli_cpu: int) -> int:
    """Microseconds of CPU time in each period of 100 ms; 0 for no limit."""
    return max(MIN_QUOTA_MICROSECONDS, milli_cpu * PERIOD_MICROSECONDS // 1000) if milli_cpu else 0


def qos_class(pod: core_v1.Pod) -> str:
    """Guaranteed, Burstable or BestEffort (Kubernetes: "Pod Quality of Service Classes")."""
    assert pod.spec is not None
    if pod.status is not None and pod.status.qosClass:
        return pod.status.qosClass
    containers = [*pod.spec.initContainers, *pod.spec.containers]
    if not any(_compute(requests_of(c)) or _compute(limits_of(c)) for c in containers):
        return BEST_EFFORT
    guaranteed = all(
        _compute(limits_of(c)).keys() == {"cpu", "memory"}
        and all(
            quantity.parse(requests_of(c)[name]) == quantity.parse(limit)
            for name, limit in _compute(limits_of(c)).items()
        )
        for c in containers
    )
    return GUARANTEED if guaranteed else BURSTABLE


def oom_score_adj(pod: core_v1.Pod, container: core_v1.Container, *, node_memory: int) -> int:
    """Whom the kernel kills first when the node is out of memory: who uses more than it requested."""
    assert pod.spec is not None
    if (pod.spec.priority or 0) >= CRITICAL_PRIORITY:
        return OOM_GUARANTEED
    qos = qos_class(pod)
    if qos == GUARANTEED:
        return OOM_GUARANTEED
    if qos == BEST_EFFORT:
        return OOM_BEST_EFFORT
    requested = quantity.value(requests_of(container).get("memory", "0"))
    score = 1000 - 1000 * requested // max(1, node_memory)
    # Above any guaranteed container, and below any best-effort one.
    return max(1000 + OOM_GUARANTEED, min(OOM_BEST_EFFORT - 1, score))


def pod_requests(pod: core_v1.Pod) -> dict[str, int]:
    """What a pod needs of its node: resource name to amount (`cpu` in millicores, everything else in units).

    The containers together, or the most demanding moment of initialization if that is more; sidecars (init containers
    that go on running) count in both.
    """
    assert pod.spec is not None
    running: dict[str, int] = {}
    peak: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(running, amounts(requests_of(container)))
    for container in pod.spec.initContainers:
        needs = amounts(requests_of(container))
        if container.restartPolicy == "Always":
            _add(sidecars, needs)
            _add(running, needs)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            _add(moment, needs)
        peak = {name: max(peak.get(name, 0), moment.get(name, 0)) for name in peak.keys() | moment.keys()}
    total = {name: max(running.get(name, 0), peak.get(name, 0)) for name in running.keys() | peak.keys()}
    _add(total, amounts(_strings(pod.spec.overhead)))
    return total


def amounts(quantities: Mapping[str, meta_v1.Quantity]) -> dict[str, int]:
    """Quantities as whole numbers: `cpu` in millicores, everything else in units."""
    return {name: quantity.milli(q) if name == "cpu" else quantity.value(q) for name, q in quantities.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _compute(quantities: Quantities) -> dict[str, str]:
    """Only what decides about the quality of service."""
    return {name: q for name, q in quantities.items() if name in ("cpu", "memory") and quantity.parse(q) != 0}


def _strings(quantities: Mapping[str, object]) -> dict[str, str]:
    # A quantity may come as a JSON number.
    return {name: str(q) for name, q in quantities.items()}


def sum_requests(pods: Iterable[core_v1.Pod]) -> dict[str, int]:
    """What several pods need together."""
    total: dict[str, int] = {}
    for pod in pods:
        _add(total, pod_requests(pod))
    return total
