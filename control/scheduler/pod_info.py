"""What the scheduler needs of a pod, worked out once when the pod is first seen."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from control.scheduler.affinity_terms import PodTerms, pod_terms
from kube import objects, quantity
from kube.models import core_v1

CPU, MEMORY, STORAGE, PODS = "cpu", "memory", "ephemeral-storage", "pods"

# A container without requests still takes something: so that scores spread them (kube-scheduler's non-zero requests).
DEFAULT_CPU_MILLI = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024

HostPort = tuple[str, str, int]


class PodInfo(Struct, frozen=True):
    """A pod as filters and scores see it.

    pod        the object; None for placed pods, of which the rest is enough
    requests   resource → amount: cpu in thousandths of a core, everything else in whole units (memory in bytes); with
               one of `pods`
    scoring    (cpu milli, memory bytes) with defaults for containers that request nothing
    host_ports (host IP, protocol, port) that it takes on its node
    owner      uid of its controller, or its own; pods with the same owner are spread
    terms      its inter-pod affinity, if any
    terminating whether its deletion was asked for
    """

    pod: core_v1.Pod | None
    key: str
    uid: str
    namespace: str
    labels: Mapping[str, str]
    priority: int
    requests: Mapping[str, int]
    scoring: tuple[int, int]
    host_ports: frozenset[HostPort]
    owner: str
    images: tuple[str, ...]
    terms: PodTerms | None = None
    terminating: bool = False

    @property
    def spec(self) -> core_v1.PodSpec:
        assert self.pod is not None
        assert self.pod.spec is not None
        return self.pod.spec

    @property
    def depends_on_pods(self) -> bool:
        """Whether it may become schedulable by another pod being placed."""
        return bool(self.terms and self.terms.affinity) or bool(self.spec.topologySpreadConstraints)

    def without_pod(self) -> PodInfo:
        """The same without the object, whose older versions would otherwise stay in memory."""
        return replace(self, pod=None)


def amount(resource: str, value: quantity.QuantityLike) -> int:
    """An amount in the scheduler's units."""
    return quantity.milli(value) if resource == CPU else quantity.value(value)


def pod_info(pod: core_v1.Pod) -> PodInfo:
    """Everything about a pod that scheduling asks for."""
    assert pod.spec is not None
    containers = pod.spec.containers
    owner = objects.controller_of(pod)
    return PodInfo(
        pod=pod,
        key=objects.key(pod),
        uid=objects.uid(pod),
        namespace=objects.namespace(pod),
        labels=pod.metadata.labels,
        priority=pod.spec.priority or 0,
        requests=pod_requests(pod.spec),
        scoring=_scoring(pod.spec),
        host_ports=frozenset(
            (port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort)  # noqa: S104 (every address)
            for container in (*containers, *(c for c in pod.spec.initContainers if c.restartPolicy == "Always"))
            for port in container.ports
            if port.hostPort
        ),
        owner=(owner.uid if owner else None) or objects.uid(pod),
        images=tuple(c.image for c in containers if c.image),
        terms=pod_terms(pod),
        terminating=objects.is_deleting(pod),
    )


def pod_requests(spec: core_v1.PodSpec) -> dict[str, int]:
    """Effective requests: containers and sidecars add up, init containers count by their largest (KEP-753)."""
    total: dict[str, int] = {}
    for container in spec.containers:
        _add(total, _requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.initContainers:
        own = _requests(container)
        if container.restartPolicy == "Always":
            _add(total, own)
            _add(sidecars, own)
            own = {}
        together = dict(sidecars)
        _add(together, own)
        peak = {r: max(peak.get(r, 0), together.get(r, 0)) for r in {*peak, *together}}
    found = {r: max(total.get(r, 0), peak.get(r, 0)) for r in {*total, *peak}}
    _add(found, {r: amount(r, q) for r, q in (spec.overhead or {}).items()})
    found[PODS] = 1
    return found


def _requests(container: core_v1.Container) -> dict[str, int]:
    resources = container.resources
    return {r: amount(r, q) for r, q in resources.requests.items()} if resources else {}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for resource, value in more.items():
        total[resource] = total.get(resource, 0) + value


def _scoring(spec: core_v1.PodSpec) -> tuple[int, int]:
    cpu = memory = 0
    for container in spec.containers:
        requests = _requests(container)
        cpu += requests.get(CPU, DEFAULT_CPU_MILLI)
        memory += requests.get(MEMORY, DEFAULT_MEMORY_BYTES)
    return cpu, memory
