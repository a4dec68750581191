"""The objects without which nobody could do anything: the first namespaces, roles and priority classes.

Each start of the master sees to it that they are there and as this version wants them. They go through the API like
everything else. What else every cluster has (the Service `kubernetes`, cluster-info) is the controllers' to keep.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from control.api.authorization import bootstrap_policy
from kube import kinds, status
from kube.client import Client
from kube.status import ApiError

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"

# Fields that this version decides, by kind; of other kinds an object that exists is left alone.
_OWNED = {
    "ClusterRole": ("rules", "aggregationRule"),
    "ClusterRoleBinding": ("subjects",),
    "Role": ("rules",),
    "RoleBinding": ("subjects",),
}

Object = dict[str, Any]

log = logging.getLogger(__name__)


async def ensure_objects(client: Client) -> list[str]:
    """Create what is missing and update what differs; what could not be done, one line for each object."""
    namespaces = [_object("v1", "Namespace", name) for name in NAMESPACES]
    others = [
        *bootstrap_policy.objects(),
        *_priority_classes(),
    ]
    failures: list[str] = []

    async def ensure(obj: Object) -> None:
        try:
            try:
                await _ensure(client, obj)
            except ApiError as error:
                # another master, starting at the same time, was faster: look at what it did
                if not status.is_already_exists(error) and not status.is_conflict(error):
                    raise
                await _ensure(client, obj)
        except ApiError as error:
            failures.append(f"{obj['kind']} {obj['metadata']['name']}: {error.message}")

    for stage in (namespaces, others):
        # one after another would cost a sync of the disk each
        async with asyncio.TaskGroup() as group:
            for obj in stage:
                group.create_task(ensure(obj))
    return failures


async def _ensure(client: Client, wanted: Object) -> None:
    kind = kinds.by_gvk(wanted["apiVersion"], wanted["kind"])
    assert kind is not None
    metadata = wanted["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    try:
        response = await client.raw("GET", kind.path(namespace, name))
    except ApiError as error:
        if not status.is_not_found(error):
            raise
        await _send(client, "POST", kind.path(namespace), wanted)
        return
    found: Object = orjson.loads(response.body)
    if found["metadata"].get("annotations", {}).get(AUTOUPDATE) == "false":
        return
    changed = {f: wanted.get(f) for f in _OWNED.get(wanted["kind"], ()) if found.get(f) != wanted.get(f)}
    if changed:
        log.info("updating %s %s", kind.group_resource, name)
        await _send(client, "PUT", kind.path(namespace, name), {**found, **changed})


async def _send(client: Client, method: str, path: str, obj: Object) -> None:
    await client.raw(method, path, body=orjson.dumps(obj), headers={"content-type": "application/json"})


def _object(api_version: str, kind: str, name: str, *, namespace: str = "", **fields: Any) -> Object:
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def _priority_classes() -> list[Object]:
    found = []
    for name, value in (("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)):
        what = "Used by system critical pods that must not be moved from their current node."
        if name == "system-cluster-critical":
            what = "Used by system critical pods that must run in the cluster, on whichever node."
        found.append(_object("scheduling.k8s.io/v1", "PriorityClass", name, value=value, description=what))
    return found
