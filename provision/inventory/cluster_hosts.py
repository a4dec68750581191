"""The live cluster as an inventory: a host per Node, groups by role, readiness and label, facts from the Node's status.

`hosts` is pure. Both forms in which Ansible takes a dynamic inventory are made of it: the plugin (plugins/ktool.py) and
the script (`ktool inventory script`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube import kubeconfig, objects, quantity
from kube.client import Client
from kube.errors import KtoolError
from kube.models import core_v1
from kube.transport import HTTPTransport

ROLE_PREFIX = "node-role.kubernetes.io/"
CONTROL_PLANE_ROLES = ("control-plane", "master")

# These groups are always there, so that a play for `not_ready` runs on nothing, without a warning, on a good day.
GROUPS = ("masters", "workers", "ready", "not_ready", "unschedulable")

# A group for every host, with that host in it, helps nobody.
_LABELS_WITHOUT_GROUP = ("kubernetes.io/hostname",)


@dataclass(frozen=True, slots=True)
class ClusterHost:
    """A Node as a host of Ansible's. `variables` begin with `node_`, but for Ansible's own."""

    name: str
    groups: tuple[str, ...]
    variables: dict[str, Any] = field(default_factory=dict)


def hosts(nodes: Iterable[core_v1.Node], *, label_groups: bool = True) -> list[ClusterHost]:
    """Hosts for Nodes, in the order of their names."""
    found = [_host(node, label_groups=label_groups) for node in nodes]
    return sorted(found, key=lambda host: host.name)


def _host(node: core_v1.Node, *, label_groups: bool) -> ClusterHost:
    labels = dict(node.metadata.labels or {})
    roles = sorted(key.removeprefix(ROLE_PREFIX) for key in labels if key.startswith(ROLE_PREFIX))
    is_master = any(role in CONTROL_PLANE_ROLES for role in roles)
    ready = objects.condition(node.status.conditions if node.status else (), "Ready")
    is_ready = ready is not None and ready.status == "True"
    is_unschedulable = bool(node.spec and node.spec.unschedulable)
    groups = ["masters" if is_master else "workers", "ready" if is_ready else "not_ready"]
    groups += [group_name("role", role) for role in roles]
    if is_unschedulable:
        groups.append("unschedulable")
    if label_groups:
        groups += [group_name("label", k, v) for k, v in sorted(labels.items()) if k not in _LABELS_WITHOUT_GROUP]
    facts = _facts(node, labels, roles) | {"node_ready": is_ready, "node_unschedulable": is_unschedulable}
    return ClusterHost(objects.name(node), tuple(dict.fromkeys(groups)), _inert(facts))


def group_name(*parts: str) -> str:
    """A group's name of parts, in the letters that Ansible wants: `label_kubernetes_io_arch_amd64`."""
    return re.sub(r"[^A-Za-z0-9_]", "_", "_".join(part for part in parts if part))


def _facts(node: core_v1.Node, labels: dict[str, str], roles: Sequence[str]) -> dict[str, Any]:
    status = node.status or core_v1.NodeStatus()
    spec = node.spec or core_v1.NodeSpec()
    info = status.nodeInfo or core_v1.NodeSystemInfo()
    addresses = [a.address for a in status.addresses if a.type == "InternalIP" and a.address]
    return {
        **({"ansible_host": addresses[0]} if addresses else {}),
        "node_addresses": addresses,
        "node_roles": list(roles),
        "node_labels": labels,
        "node_taints": [f"{t.key}={t.value}:{t.effect}" if t.value else f"{t.key}:{t.effect}" for t in spec.taints],
        "node_conditions": {c.type: c.status for c in status.conditions if c.type},
        "node_cpus": quantity.milli(status.capacity.get("cpu", "0")) / 1000,
        "node_memory_mib": quantity.value(status.capacity.get("memory", "0")) >> 20,
        "node_pods": quantity.value(status.capacity.get("pods", "0")),
        "node_pod_cidr": spec.podCIDR or "",
        "node_kernel": info.kernelVersion or "",
        "node_os_image": info.osImage or "",
        "node_architecture": info.architecture or "",
        "node_runtime": info.containerRuntimeVersion or "",
        "node_kubelet_version": info.kubeletVersion or "",
        "node_machine_id": info.machineID or "",
    }


def _inert(value: Any) -> Any:
    """A value without Jinja's marks: nodes say what they are, and Ansible must not run what they say as a template."""
    if isinstance(value, str):
        return re.sub(r"\{(?=[{%#])", "(", value)
    if isinstance(value, dict):
        return {_inert(k): _inert(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_inert(item) for item in value]
    return value


def listing(found: Sequence[ClusterHost]) -> dict[str, Any]:
    """What an inventory script prints for `--list` (Ansible: "Developing dynamic inventory")."""
    members: dict[str, list[str]] = {group: [] for group in GROUPS}
    for host in found:
        for group in host.groups:
            members.setdefault(group, []).append(host.name)
    return {
        "_meta": {"hostvars": {host.name: host.variables for host in found}},
        "all": {"children": ["ungrouped", *members]},
        **{group: {"hosts": names} for group, names in members.items()},
    }


def read_nodes(path: Path, *, selector: str = "") -> list[core_v1.Node]:
    """The Nodes of the cluster of a kubeconfig, all or those that a label selector chooses.

    KtoolError if the cluster cannot be reached, ApiError if it refuses.
    """
    return asyncio.run(_nodes(path, selector))


async def _nodes(path: Path, selector: str) -> list[core_v1.Node]:
    connection = kubeconfig.connect(path)
    client = Client(HTTPTransport(connection), user_agent="ktool-inventory")
    try:
        return (await client.list(core_v1.Node, label_selector=selector)).items
    except (ConnectionError, TimeoutError) as error:
        raise KtoolError(
            "the cluster's API server cannot be reached, so there is no inventory of it",
            found=str(error),
            wanted=f"an API server at {connection.server} (from {path})",
        ) from error
    finally:
        await client.close()
