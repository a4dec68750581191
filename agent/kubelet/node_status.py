"""From facts about the machine to a Node's status (Kubernetes: "Node Status"). Pure.

What is written when: the lease says every ten seconds that the node lives; the status is written only when something
in it changed that matters, or every five minutes, because each write goes to every watcher of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from agent.kubelet.machine import Hardware, Usage
from agent.runtime.runtime import Image, RuntimeStatus, RuntimeVersion
from kube import objects, times
from kube.models import core_v1, meta_v1

KUBERNETES_VERSION = "v1.32.0"
MAX_PODS = 110
MAX_IMAGES = 50
REPORT_SECONDS = 300.0
# A pressure is reported until it has been absent for this long, so that the node does not flap.
PRESSURE_HOLD_SECONDS = 60.0

MEMORY_PRESSURE_BYTES = 100 << 20
DISK_PRESSURE_BYTES = 5 << 30
DISK_PRESSURE_PERCENT = 10
INODE_PRESSURE_PERCENT = 5.0
PID_PRESSURE_PERCENT = 95

MEMORY_PRESSURE = "MemoryPressure"
DISK_PRESSURE = "DiskPressure"
PID_PRESSURE = "PIDPressure"
READY = "Ready"
# a condition of our own beside Kubernetes': whether the proxy role does its work
PROXY_READY = "ServiceProxyReady"
# and another: whether this node's pods reach those of all other nodes
ROUTES_READY = "PodRoutesReady"

ANNOTATION_CPU = "ktool.io/cpu-percent"
ANNOTATION_LOAD = "ktool.io/load"
ANNOTATION_MEMORY = "ktool.io/memory-available"
ANNOTATION_DISK = "ktool.io/disk-available"

_PRESSURES = {
    MEMORY_PRESSURE: ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "sufficient memory available"),
    DISK_PRESSURE: ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "no disk pressure"),
    PID_PRESSURE: ("KubeletHasInsufficientPID", "KubeletHasSufficientPID", "sufficient PID available"),
}


class NodeFacts(Struct, frozen=True, kw_only=True):
    """All that a Node's status is made of.

    `addresses` are IP addresses, the one that others should use first; `pressures` is what `observe_pressures` keeps.
    """

    name: str
    hardware: Hardware
    addresses: tuple[str, ...]
    kubelet_port: int
    agent_version: str
    runtime_version: RuntimeVersion | None
    runtime: RuntimeStatus
    images: tuple[Image, ...] = ()
    pressures: Mapping[str, float] = field(default_factory=dict)
    max_pods: int = MAX_PODS
    proxy_problem: str | None = None
    routes_problem: str | None = None


def node_status(facts: NodeFacts, previous: core_v1.NodeStatus | None, *, now: float) -> core_v1.NodeStatus:
    """The status that the Node should have; `previous` is the one it has (times of conditions that did not change).

    Conditions that others keep (NetworkUnavailable) and fields that we know nothing about are carried over.
    """
    status = objects.copy(previous) if previous is not None else core_v1.NodeStatus()
    status.addresses = [
        *(core_v1.NodeAddress(type="InternalIP", address=address) for address in facts.addresses),
        core_v1.NodeAddress(type="Hostname", address=facts.hardware.hostname or facts.name),
    ]
    status.capacity = capacity(facts.hardware, max_pods=facts.max_pods)
    status.allocatable = allocatable(facts.hardware, max_pods=facts.max_pods)
    status.daemonEndpoints = core_v1.NodeDaemonEndpoints(
        kubeletEndpoint=core_v1.DaemonEndpoint(Port=facts.kubelet_port)
    )
    status.nodeInfo = _node_info(facts)
    status.images = _images(facts.images)
    ours = _conditions(facts, status.conditions, now)
    types = {condition.type for condition in ours}
    status.conditions = [*(c for c in status.conditions if c.type not in types), *ours]
    return status


def capacity(hardware: Hardware, *, max_pods: int = MAX_PODS) -> dict[str, meta_v1.Quantity]:
    """What the machine has."""
    return {
        "cpu": str(hardware.cpus),
        "memory": f"{hardware.memory >> 10}Ki",
        "ephemeral-storage": f"{hardware.disk >> 10}Ki",
        "pods": str(max_pods),
    }


def allocatable(hardware: Hardware, *, max_pods: int = MAX_PODS) -> dict[str, meta_v1.Quantity]:
    """What pods may request: the machine less a reserve for its system, the agent and the engine.

    CPU: 100 millicores, at most a tenth. Memory: 5 %, at least 100 MiB (the pressure threshold) and at most 1 GiB.
    Disk: what makes pressure.
    """
    milli = hardware.cpus * 1000
    memory = min(max(hardware.memory // 20, MEMORY_PRESSURE_BYTES), 1 << 30)
    return {
        "cpu": f"{milli - min(100, milli // 10)}m",
        "memory": f"{max(0, hardware.memory - memory) >> 10}Ki",
        "ephemeral-storage": f"{(hardware.disk - disk_threshold(hardware)) >> 10}Ki",
        "pods": str(max_pods),
    }


def disk_threshold(hardware: Hardware) -> int:
    """Bytes of free disk below which the node has DiskPressure: 10 %, or 5 GiB where that is less."""
    return min(hardware.disk * DISK_PRESSURE_PERCENT // 100, DISK_PRESSURE_BYTES)


def observe_pressures(usage: Usage, hardware: Hardware, last: Mapping[str, float], *, now: float) -> dict[str, float]:
    """When each pressure was last there (condition type to seconds since 1970); old ones are forgotten."""
    present = {
        MEMORY_PRESSURE: usage.memory_available < MEMORY_PRESSURE_BYTES,
        DISK_PRESSURE: usage.disk_available < disk_threshold(hardware)
        or usage.inodes_free_percent < INODE_PRESSURE_PERCENT,
        PID_PRESSURE: usage.pids * 100 > hardware.max_pids * PID_PRESSURE_PERCENT,
    }
    kept = {type_: at for type_, at in last.items() if now - at < PRESSURE_HOLD_SECONDS}
    return kept | {type_: now for type_, there in present.items() if there}


def labels(facts: NodeFacts) -> dict[str, str]:
    """Well-known labels of the Node."""
    return {
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.hardware.architecture,
    }


def usage_annotations(usage: Usage) -> dict[str, str]:
    """The machine's real numbers, for people and for `ktool status`."""
    return {
        ANNOTATION_CPU: f"{usage.cpu_percent:.0f}",
        ANNOTATION_LOAD: " ".join(f"{value:.2f}" for value in usage.load),
        ANNOTATION_MEMORY: f"{usage.memory_available >> 20}Mi",
        ANNOTATION_DISK: f"{usage.disk_available >> 20}Mi",
    }


def usage_changed(old: Usage | None, new: Usage, hardware: Hardware) -> bool:
    """Whether the numbers moved enough to tell: 10 points of CPU, 5 % of memory, 1 % of disk."""
    return old is None or (
        abs(old.cpu_percent - new.cpu_percent) >= 10.0
        or abs(old.memory_available - new.memory_available) * 20 >= hardware.memory
        or abs(old.disk_available - new.disk_available) * 100 >= hardware.disk
    )


def status_changed(old: core_v1.NodeStatus | None, new: core_v1.NodeStatus) -> bool:
    """Whether anything differs but the heartbeats' times."""
    return old is None or _timeless(old) != _timeless(new)


def _timeless(status: core_v1.NodeStatus) -> core_v1.NodeStatus:
    found = objects.copy(status)
    for condition in found.conditions:
        condition.lastHeartbeatTime = None
    found.conditions.sort(key=lambda condition: condition.type or "")
    return found


def _node_info(facts: NodeFacts) -> core_v1.NodeSystemInfo:
    hardware, runtime = facts.hardware, facts.runtime_version
    # A version of Kubernetes that says whose it is, and still compares as one (semantic versioning).
    version = f"{KUBERNETES_VERSION}-ktool" + (f".{facts.agent_version}" if facts.agent_version else "")
    return core_v1.NodeSystemInfo(
        architecture=hardware.architecture,
        bootID=hardware.boot_id,
        containerRuntimeVersion=f"{runtime.name}://{runtime.version}" if runtime else "unknown://",
        kernelVersion=hardware.kernel,
        kubeProxyVersion=version,
        kubeletVersion=version,
        machineID=hardware.machine_id,
        operatingSystem="linux",
        osImage=hardware.os_image,
        systemUUID=hardware.system_uuid,
    )


def _images(images: Iterable[Image]) -> list[core_v1.ContainerImage]:
    """The largest first, as many as Kubernetes lists; the scheduler prefers nodes that have a pod's images."""
    largest = sorted(images, key=lambda image: (-image.size_bytes, image.id))[:MAX_IMAGES]
    return [
        core_v1.ContainerImage(names=[*image.digests, *image.references][:5], sizeBytes=image.size_bytes)
        for image in largest
        if image.references or image.digests
    ]


def _conditions(facts: NodeFacts, previous: list[core_v1.NodeCondition], now: float) -> list[core_v1.NodeCondition]:
    found = []
    for type_, (bad, good, good_message) in _PRESSURES.items():
        there = type_ in facts.pressures
        words = bad.removeprefix("KubeletHas")
        message = f"kubelet has {good_message}" if not there else f"the node is short: {words}"
        found.append(_condition(type_, there, bad if there else good, message, previous, now))
    missing = [c for c in facts.runtime.conditions if not c.status]
    if missing:
        message = "; ".join(c.message or f"{c.type} is false" for c in missing)
        reason, ready = "KubeletNotReady", False
    else:
        message, reason, ready = "kubelet is posting ready status", "KubeletReady", True
    found.append(_condition(READY, ready, reason, message, previous, now))
    if facts.proxy_problem is not None:
        well = not facts.proxy_problem
        reason, message = (
            ("RulesSynced", "Service rules follow the cluster") if well else ("Failing", facts.proxy_problem)
        )
        found.append(_condition(PROXY_READY, well, reason, message, previous, now))
    if facts.routes_problem is not None:
        well = not facts.routes_problem
        reason, message = (
            ("RoutesSet", "pods of all other nodes have a route") if well else ("RoutesMissing", facts.routes_problem)
        )
        found.append(_condition(ROUTES_READY, well, reason, message, previous, now))
    return found


def _condition(
    type_: str, status: bool, reason: str, message: str, previous: list[core_v1.NodeCondition], now: float
) -> core_v1.NodeCondition:
    before = objects.condition(previous, type_)
    text = "True" if status else "False"
    moment = times.rfc3339(now)
    since = before.lastTransitionTime if before is not None and before.status == text else None
    return core_v1.NodeCondition(
        type=type_,
        status=text,
        reason=reason,
        message=message,
        lastHeartbeatTime=moment,
        lastTransitionTime=since or moment,
    )
