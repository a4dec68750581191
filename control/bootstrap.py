"""The objects that a cluster begins with: namespaces, roles, the API server's own Service.

Each start of the master sees to it that they are there and as this version wants them. They go through the API like
everything else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

import orjson
import yaml

from control.api.authorization import bootstrap_policy
from control.certificates import Addresses, service_address
from kube import kinds, kubeconfig, status
from kube.client import Client
from kube.status import ApiError

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"

# Fields that this version decides, by kind; of other kinds an object that exists is left alone.
_OWNED = {
    "ClusterRole": ("rules",),
    "ClusterRoleBinding": ("subjects",),
    "Role": ("rules",),
    "RoleBinding": ("subjects",),
    "ConfigMap": ("data",),
    "Endpoints": ("subsets",),
    "EndpointSlice": ("endpoints", "ports"),
}

Object = dict[str, Any]

log = logging.getLogger(__name__)


async def ensure_objects(
    client: Client, *, addresses: Addresses, service_cidr: str, ca_certificate: bytes
) -> list[str]:
    """Create what is missing and update what differs; what could not be done, one line for each object."""
    namespaces = [_object("v1", "Namespace", name) for name in NAMESPACES]
    others = [
        *bootstrap_policy.objects(),
        *_priority_classes(),
        *_api_service(addresses, service_cidr),
        _cluster_info(addresses, ca_certificate),
    ]
    failures: list[str] = []

    async def ensure(obj: Object) -> None:
        try:
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


def _api_service(addresses: Addresses, service_cidr: str) -> list[Object]:
    """The Service `kubernetes` in `default`, by which pods reach the API, and what stands behind it."""
    labels = {"component": "apiserver", "provider": "kubernetes"}
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": addresses.port}]
    address = service_address(service_cidr)
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
    service = _object("v1", "Service", "kubernetes", namespace="default", spec=spec)
    service["metadata"]["labels"] = labels
    if ipaddress.ip_address(addresses.advertise).is_loopback:
        return [service]  # nobody but this machine could follow it
    port = {"name": "https", "port": addresses.port, "protocol": "TCP"}
    endpoints = _object(
        "v1",
        "Endpoints",
        "kubernetes",
        namespace="default",
        subsets=[{"addresses": [{"ip": addresses.advertise}], "ports": [port]}],
    )
    endpoints["metadata"]["labels"] = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    family = "IPv4" if ipaddress.ip_address(addresses.advertise).version == 4 else "IPv6"
    slice_ = _object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "kubernetes",
        namespace="default",
        addressType=family,
        endpoints=[{"addresses": [addresses.advertise], "conditions": {"ready": True}}],
        ports=[port],
    )
    slice_["metadata"]["labels"] = {"kubernetes.io/service-name": "kubernetes"}
    return [service, endpoints, slice_]


def _cluster_info(addresses: Addresses, ca_certificate: bytes) -> Object:
    """What machines that want to join may read before they are known: where the API is, and its CA."""
    config = kubeconfig.build(server=addresses.url, ca_data=ca_certificate)
    config = {**config, "users": [], "contexts": [], "current-context": ""}
    text = yaml.safe_dump(config, sort_keys=False)
    return _object("v1", "ConfigMap", "cluster-info", namespace="kube-public", data={"kubeconfig": text})
