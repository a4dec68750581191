"""/metrics and /metrics/resource in Prometheus' text format, under the names that the kubelet uses. Pure.

A few families of samples do not need a client library: its import alone would cost more than all that is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from agent.kubelet.server.usage import Reading
from agent.runtime.runtime import (
    LABEL_CONTAINER_NAME,
    LABEL_POD_NAME,
    LABEL_POD_NAMESPACE,
    Container,
    ContainerStats,
    ContainerStatus,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(Struct, frozen=True):
    """One value; `time` in seconds since 1970, None for now."""

    value: float
    labels: Mapping[str, str]
    time: float | None = None


def family(name: str, type_: str, help_: str, samples: Iterable[Sample]) -> Iterator[str]:
    """The lines of one metric."""
    yield f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"
    for sample in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in sample.labels.items())
        stamp = f" {round(sample.time * 1000)}" if sample.time is not None else ""
        yield f"{name}{{{inside}}} {sample.value:.15g}{stamp}\n" if inside else f"{name} {sample.value:.15g}{stamp}\n"


def resource_metrics(reading: Reading, running: Mapping[str, ContainerStatus]) -> str:
    """What node, pods and containers use: what metrics-server reads. `running` has statuses by container ID."""
    node = reading.node
    containers = [(stats, _names(stats)) for stats in reading.containers]
    pods: dict[tuple[str, str], list[ContainerStats]] = {}
    for stats, names in containers:
        pods.setdefault((names["namespace"], names["pod"]), []).append(stats)
    pod_labels = {key: {"namespace": key[0], "pod": key[1]} for key in pods}
    started = [
        Sample(status.started_at.timestamp(), names)
        for stats, names in containers
        if (status := running.get(stats.id)) is not None and status.started_at is not None
    ]
    lines: list[str] = []
    lines += family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative CPU time consumed by the container in core-seconds.",
        (Sample(s.cpu_usage_ns / 1e9, names, s.timestamp.timestamp()) for s, names in containers),
    )
    lines += family(
        "container_memory_working_set_bytes",
        "gauge",
        "Working set of the container in bytes.",
        (Sample(s.memory_working_set_bytes, names, s.timestamp.timestamp()) for s, names in containers),
    )
    lines += family("container_start_time_seconds", "gauge", "Start of the container in seconds since 1970.", started)
    lines += family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative CPU time consumed by the node in core-seconds.",
        [Sample(node.cpu_ns / 1e9, {}, node.time)],
    )
    lines += family(
        "node_memory_working_set_bytes",
        "gauge",
        "Working set of the node in bytes.",
        [Sample(node.memory_working_set, {}, node.time)],
    )
    lines += family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative CPU time consumed by the pod in core-seconds.",
        (
            Sample(sum(s.cpu_usage_ns for s in found) / 1e9, pod_labels[key], _newest(found))
            for key, found in pods.items()
        ),
    )
    lines += family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Working set of the pod in bytes.",
        (
            Sample(sum(s.memory_working_set_bytes for s in found), pod_labels[key], _newest(found))
            for key, found in pods.items()
        ),
    )
    lines += family(
        "resource_scrape_error",
        "gauge",
        "1 if the runtime did not answer, 0 otherwise.",
        [Sample(float(reading.images is None), {})],
    )
    return "".join(lines)


class ServerCounts(Struct, frozen=True):
    """What the kubelet's server counts of itself: requests by (method, first part of the path, status code)."""

    requests: Mapping[tuple[str, str, int], int]
    long_running: int


def kubelet_metrics(
    node_name: str,
    *,
    pods: int,
    containers: Iterable[Container],
    counts: ServerCounts,
    cpu_seconds: float,
    resident_bytes: int,
    started: float,
) -> str:
    """What the kubelet says of itself."""
    states = Counter(container.state.value.lower() for container in containers)
    lines: list[str] = []
    lines += family("kubelet_node_name", "gauge", "The node's name; the value is 1.", [Sample(1, {"node": node_name})])
    lines += family("kubelet_running_pods", "gauge", "Pods that have a running sandbox.", [Sample(pods, {})])
    lines += family(
        "kubelet_running_containers",
        "gauge",
        "Containers by state.",
        (Sample(count, {"container_state": state}) for state, count in sorted(states.items())),
    )
    lines += family(
        "kubelet_http_requests_total",
        "counter",
        "Answered requests of the kubelet's server.",
        (
            Sample(count, {"method": method, "path": path, "code": str(code)})
            for (method, path, code), count in sorted(counts.requests.items())
        ),
    )
    lines += family(
        "kubelet_http_inflight_requests",
        "gauge",
        "Requests under way: followed logs, commands, forwarded ports.",
        [Sample(counts.long_running, {})],
    )
    lines += family("process_cpu_seconds_total", "counter", "CPU time of the process.", [Sample(cpu_seconds, {})])
    lines += family(
        "process_resident_memory_bytes", "gauge", "Resident memory of the process.", [Sample(resident_bytes, {})]
    )
    lines += family("process_start_time_seconds", "gauge", "Start of the process.", [Sample(started, {})])
    return "".join(lines)


def _names(stats: ContainerStats) -> dict[str, str]:
    return {
        "container": stats.labels.get(LABEL_CONTAINER_NAME, stats.name),
        "namespace": stats.labels.get(LABEL_POD_NAMESPACE, ""),
        "pod": stats.labels.get(LABEL_POD_NAME, ""),
    }


def _newest(found: Iterable[ContainerStats]) -> float:
    return max(stats.timestamp.timestamp() for stats in found)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
