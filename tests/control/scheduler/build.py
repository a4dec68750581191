"""Nodes and pods from a few words."""

from __future__ import annotations

from typing import Any

from kube import objects
from kube.models import core_v1


def node(
    name: str, *, cpu: str = "4", memory: str = "8Gi", pods: str = "110", ready: str = "True", **extra: Any
) -> core_v1.Node:
    """A node; `extra`: labels, taints, unschedulable, resources, images."""
    return objects.from_dict(node_data(name, cpu=cpu, memory=memory, pods=pods, ready=ready, **extra), core_v1.Node)


def node_data(
    name: str, *, cpu: str = "4", memory: str = "8Gi", pods: str = "110", ready: str = "True", **extra: Any
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **extra.get("labels", {})}},
        "spec": {k: extra[k] for k in ("taints", "unschedulable") if k in extra},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods, **extra.get("resources", {})},
            "conditions": [{"type": "Ready", "status": ready}],
            "images": extra.get("images", []),
        },
    }


def pod(name: str = "p", **what: Any) -> core_v1.Pod:
    """A pod; see pod_data."""
    return objects.from_dict(pod_data(name, **what), core_v1.Pod)


def pod_data(
    name: str = "p",
    *,
    cpu: str = "",
    memory: str = "",
    owner: str = "",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    deleting: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    """A pod of one container; `spec` has its requests, ports and image, and any field of a PodSpec."""
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    requests |= spec.pop("requests", {})
    container = {
        "name": "c",
        "image": spec.pop("image", "app:1"),
        "resources": {"requests": requests},
        "ports": spec.pop("ports", []),
    }
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": labels or {}}
    if owner:
        metadata["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}
        ]
    if deleting:
        metadata["deletionTimestamp"] = "2025-01-01T00:00:00Z"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}
