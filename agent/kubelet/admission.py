"""Whether this node takes a pod that was bound to it (Kubernetes: the kubelet's admission handlers).

The scheduler looked at the same numbers, but a while ago, and pods can be bound by hand (spec.nodeName). A pod that
does not fit must fail at once and visibly; a node that takes everything kills its other pods for lack of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.kubelet import resources
from kube import selector
from kube.models import core_v1, meta_v1

# Names as Kubernetes writes them after "OutOf".
_COMPUTE = ("cpu", "memory", "ephemeral-storage")


class Rejection(Struct, frozen=True):
    """Why a pod may not run here: it becomes the status of a Failed pod."""

    reason: str
    message: str


def admit(
    pod: core_v1.Pod,
    others: Iterable[core_v1.Pod],
    *,
    allocatable: Mapping[str, meta_v1.Quantity],
    node: core_v1.Node | None = None,
) -> Rejection | None:
    """None if the pod may run beside `others` (the pods that this node has and that have not ended).

    `allocatable` as in a Node's status (quantities). `node` is needed for the check of nodeSelector only.
    """
    assert pod.spec is not None
    present = list(others)
    available = resources.amounts(allocatable)
    limit = available.get("pods", 0)
    if len(present) + 1 > limit:
        return _insufficient("pods", 1, len(present), limit)
    used = resources.sum_requests(present)
    for name, needed in resources.pod_requests(pod).items():
        if needed == 0:
            continue
        if name not in available and name not in _COMPUTE:
            return _insufficient(name, needed, 0, 0)
        if used.get(name, 0) + needed > available.get(name, 0):
            return _insufficient(name, needed, used.get(name, 0), available.get(name, 0))
    taken = {port for other in present for port in host_ports(other)}
    if any(_clash(port, other) for port in host_ports(pod) for other in taken):
        return Rejection("NodePorts", "Pod was rejected: Predicate NodePorts failed: the ports are taken on this node")
    labels = node.metadata.labels if node is not None else None
    if labels is not None and not selector.from_map(pod.spec.nodeSelector).matches(labels):
        return Rejection("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node selector mismatch")
    return None


def host_ports(pod: core_v1.Pod) -> set[tuple[str, str, int]]:
    """(address, protocol, port) for each port of the host that a pod asks for; address empty: all of them."""
    assert pod.spec is not None
    found = set()
    for container in [*pod.spec.initContainers, *pod.spec.containers]:
        for port in container.ports:
            number = port.hostPort or (port.containerPort if pod.spec.hostNetwork else None)
            if number:
                address = port.hostIP if port.hostIP not in (None, "0.0.0.0", "::") else ""  # noqa: S104
                found.add((address or "", port.protocol or "TCP", number))
    return found


def _clash(a: tuple[str, str, int], b: tuple[str, str, int]) -> bool:
    return a[1:] == b[1:] and (a[0] == b[0] or not a[0] or not b[0])


def _insufficient(name: str, requested: int, used: int, capacity: int) -> Rejection:
    message = (
        f"Pod was rejected: Node didn't have enough resource: {name}, "
        f"requested: {requested}, used: {used}, capacity: {capacity}"
    )
    return Rejection(f"OutOf{name}", message)
