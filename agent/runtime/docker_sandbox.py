"""Pod sandboxes on Docker Engine: a pause container on the pods' bridge whose namespaces the pod's containers join.

What a sandbox is to be becomes the body of one create request, and what the engine says of it becomes a status: pure
functions, with what they need to know of the node in `NodeLimits`. The kubelet speaks of cgroups by their path; an
engine whose cgroup driver is systemd wants a slice's name instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from agent.runtime import docker_labels, docker_times, oom_score
from agent.runtime.pause_image import PAUSE_REFERENCE
from agent.runtime.runtime import LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID
from agent.runtime.sandbox import Sandbox, SandboxConfig, SandboxState, SandboxStatus

# Kubernetes: the sandbox goes last when memory runs out, for all containers of the pod go with it.
_OOM_SCORE = -998
_CPU_SHARES = 2


class NodeLimits(Struct, frozen=True):
    """What the node allows and how its engine is set up; read once per connection."""

    cgroup_driver: str = "cgroupfs"
    lowest_oom_score: int = 0


def creation(config: SandboxConfig, *, cluster: str, network: str, limits: NodeLimits) -> dict[str, Any]:
    """The body of the engine's create request for a sandbox; `network` is the pods' network."""
    ports = [mapping for mapping in config.port_mappings if mapping.host_port > 0]
    exposed = {f"{mapping.container_port}/{mapping.protocol.lower()}": mapping for mapping in ports}
    host: dict[str, Any] = {
        "NetworkMode": "host" if config.host_network else network,
        "UTSMode": "host" if config.host_network else "",
        "IpcMode": "host" if config.host_ipc else "shareable",
        "PidMode": "host" if config.host_pid else "",
        "CgroupParent": cgroup_parent(config.cgroup_parent, limits.cgroup_driver),
        "OomScoreAdj": oom_score.clamp(_OOM_SCORE, limits.lowest_oom_score),
        "CpuShares": _CPU_SHARES,
        "Dns": list(config.dns.servers),
        "DnsSearch": list(config.dns.searches),
        "DnsOptions": list(config.dns.options),
        "Sysctls": dict(config.sysctls),
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
    }
    if not config.host_network:
        host["PortBindings"] = {
            key: [{"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)}] for key, mapping in exposed.items()
        }
    return {
        "Image": PAUSE_REFERENCE,
        # In the host's UTS namespace there is no name to set.
        "Hostname": "" if config.host_network else config.hostname,
        "ExposedPorts": {} if config.host_network else {key: {} for key in exposed},
        "Labels": docker_labels.sandbox_labels(cluster, config),
        "HostConfig": host,
    }


def cgroup_parent(path: str, driver: str) -> str:
    """A cgroupfs path as the engine's cgroup driver wants it.

    For systemd the path's parts become one slice name: `/kubepods/burstable/pod1-2` is
    `kubepods-burstable-pod1_2.slice`, since a dash there separates parent and child.
    """
    if driver != "systemd" or path.endswith(".slice"):
        return path
    parts = [part.replace("-", "_") for part in path.split("/") if part]
    return "-".join(parts) + ".slice" if parts else ""


def listed(found: Mapping[str, Any]) -> Sandbox:
    """One entry of the engine's container list as a sandbox."""
    labels = found.get("Labels") or {}
    return Sandbox(
        id=found["Id"],
        **_identity(labels),
        state=_state(found.get("State", "")),
        created_at=datetime.fromtimestamp(found.get("Created", 0), UTC),
    )


def inspected(found: Mapping[str, Any], network: str) -> SandboxStatus:
    """An inspected container as a sandbox's status."""
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    return SandboxStatus(
        id=found["Id"],
        **_identity((found.get("Config") or {}).get("Labels") or {}),
        state=_state((found.get("State") or {}).get("Status", "")),
        created_at=docker_times.parse_known(found.get("Created", "")),
        ip=(networks.get(network) or {}).get("IPAddress", ""),
        host_network=(found.get("HostConfig") or {}).get("NetworkMode") == "host",
    )


def _identity(labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": labels.get(LABEL_POD_NAME, ""),
        "namespace": labels.get(LABEL_POD_NAMESPACE, ""),
        "uid": labels.get(LABEL_POD_UID, ""),
        "attempt": int(labels.get(docker_labels.ATTEMPT, "0")),
        "labels": docker_labels.given_labels(labels),
        "annotations": docker_labels.given_annotations(labels),
    }


def _state(status: str) -> SandboxState:
    return SandboxState.READY if status == "running" else SandboxState.NOT_READY
