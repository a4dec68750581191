"""/stats/summary: what the node and its pods use, as metrics pipelines read it (Kubernetes: Summary API). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agent.kubelet.server.usage import NodeUsage, Reading
from agent.runtime.runtime import (
    LABEL_CONTAINER_NAME,
    LABEL_POD_NAME,
    LABEL_POD_NAMESPACE,
    LABEL_POD_UID,
    ContainerStats,
    ContainerStatus,
)
from kube import objects, times
from kube.models import core_v1

Find = Callable[[str, str, str], ContainerStatus | None]


def summary(node_name: str, reading: Reading, pods: Iterable[core_v1.Pod], find: Find) -> dict[str, Any]:
    """The Summary. `find(namespace, pod, container)` tells when a container was started."""
    known = {objects.uid(pod): pod for pod in pods}
    by_pod: dict[str, list[ContainerStats]] = {}
    for stats in reading.containers:
        by_pod.setdefault(stats.labels.get(LABEL_POD_UID, ""), []).append(stats)
    return {
        "node": _node(node_name, reading),
        "pods": [_pod(found, known.get(uid), reading, find) for uid, found in by_pod.items() if uid],
    }


def _node(name: str, reading: Reading) -> dict[str, Any]:
    node = reading.node
    now = times.rfc3339(node.time)
    images = reading.images
    found: dict[str, Any] = {
        "nodeName": name,
        "startTime": times.rfc3339(node.boot_time),
        "cpu": _cpu(now, node.cpu_ns, reading.nano_cores.get("")),
        "memory": {
            "time": now,
            "availableBytes": node.memory_available,
            "usageBytes": node.memory_usage,
            "workingSetBytes": node.memory_working_set,
        },
        "network": _network(node, now),
        "fs": {
            "time": now,
            "availableBytes": node.disk_available,
            "capacityBytes": node.disk_total,
            "usedBytes": node.disk_used,
            "inodesFree": node.inodes_free,
            "inodes": node.inodes,
            "inodesUsed": node.inodes - node.inodes_free,
        },
    }
    if images is not None:
        found["runtime"] = {
            "imageFs": {
                "time": now,
                "availableBytes": images.available_bytes,
                "capacityBytes": images.capacity_bytes,
                "usedBytes": images.used_bytes,
            }
        }
    return found


def _network(node: NodeUsage, now: str) -> dict[str, Any]:
    interfaces = [
        {"name": name, "rxBytes": received, "rxErrors": rx_errors, "txBytes": sent, "txErrors": tx_errors}
        for name, (received, rx_errors, sent, tx_errors) in sorted(node.network.items())
    ]
    return {"time": now, "interfaces": interfaces, **(interfaces[0] if interfaces else {"name": ""})}


def _pod(containers: list[ContainerStats], pod: core_v1.Pod | None, reading: Reading, find: Find) -> dict[str, Any]:
    labels = containers[0].labels
    namespace, name = labels.get(LABEL_POD_NAMESPACE, ""), labels.get(LABEL_POD_NAME, "")
    now = times.rfc3339(max(stats.timestamp.timestamp() for stats in containers))
    rates = [reading.nano_cores[stats.id] for stats in containers if stats.id in reading.nano_cores]
    found: dict[str, Any] = {
        "podRef": {"name": name, "namespace": namespace, "uid": labels.get(LABEL_POD_UID, "")},
        "startTime": (pod.status.startTime if pod is not None and pod.status is not None else None) or now,
        "containers": [_container(namespace, name, stats, reading, find) for stats in containers],
        "cpu": _cpu(now, sum(s.cpu_usage_ns for s in containers), sum(rates) if rates else None),
        "memory": {
            "time": now,
            "usageBytes": sum(stats.memory_usage_bytes for stats in containers),
            "workingSetBytes": sum(stats.memory_working_set_bytes for stats in containers),
        },
    }
    return found


def _container(namespace: str, pod: str, stats: ContainerStats, reading: Reading, find: Find) -> dict[str, Any]:
    now = times.rfc3339(stats.timestamp.timestamp())
    name = stats.labels.get(LABEL_CONTAINER_NAME, stats.name)
    status = find(namespace, pod, name)
    started = status.started_at if status is not None and status.id == stats.id else None
    memory: dict[str, Any] = {
        "time": now,
        "usageBytes": stats.memory_usage_bytes,
        "workingSetBytes": stats.memory_working_set_bytes,
    }
    if stats.memory_limit_bytes:
        memory["availableBytes"] = max(0, stats.memory_limit_bytes - stats.memory_working_set_bytes)
    return {
        "name": name,
        "startTime": times.rfc3339(started.timestamp()) if started is not None else now,
        "cpu": _cpu(now, stats.cpu_usage_ns, reading.nano_cores.get(stats.id)),
        "memory": memory,
    }


def _cpu(now: str, total: int, rate: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"time": now, "usageCoreNanoSeconds": total}
    if rate is not None:
        found["usageNanoCores"] = rate
    return found
