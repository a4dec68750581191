"""What every cluster has before anybody creates anything (Kubernetes: kubernetesservice controller; kubeadm).

The namespaces `default`, `kube-system`, `kube-public` and `kube-node-lease`; the Service `default/kubernetes`, by which
pods reach the API server, with endpoints that no selector makes; and the ConfigMap `kube-public/cluster-info`, from
which a machine that joins learns the server's address and CA (it checks the CA by the pin in its join file).

Keys are kinds; each reconciliation puts one kind's objects right.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import yaml
from msgspec import Struct

from control.controllers import service_endpoints
from control.controllers.controller import Context, Controller
from control.controllers.endpoint_slice_mirroring import SKIP_MIRROR
from control.controllers.endpoint_slice_plan import SERVICE_NAME
from kube import cluster_info as cluster_info_map
from kube import objects
from kube.informer import Delta, Informer
from kube.kubeconfig import build
from kube.models import core_v1, discovery_v1, meta_v1
from kube.status import ApiError, is_already_exists

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
NAME = "kubernetes"
PORT_NAME = "https"
SERVICE_PORT = 443
CLUSTER_INFO = cluster_info_map.NAME
CLUSTER_INFO_NAMESPACE = cluster_info_map.NAMESPACE


class Address(Struct, frozen=True, kw_only=True):
    """Where the API server is: inside (`addresses`, `port`, the Service's range) and for new machines (`url`, `ca`).

    `ca` is PEM text; `pod_cidr` is what new machines are told of the pods' range. With `several` masters a server that
    cluster-info names already stays: it may be a load balancer or another master, and is as good as this one.
    """

    addresses: Sequence[str]
    port: int
    service_cidr: str
    url: str
    ca: str
    pod_cidr: str = cluster_info_map.Networks().pod_cidr
    several: bool = False


def cluster_ip(service_cidr: str) -> str:
    """The first address of the Service range, which is the API server's. ValueError if the range is malformed."""
    network = ipaddress.ip_network(service_cidr.split(",")[0].strip())
    return str(network.network_address + 1)


def namespaces() -> list[core_v1.Namespace]:
    """The namespaces that are always there."""
    return [core_v1.Namespace(metadata=meta_v1.ObjectMeta(name=name)) for name in NAMESPACES]


def service(where: Address) -> core_v1.Service:
    """The Service `default/kubernetes`."""
    address = cluster_ip(where.service_cidr)
    return core_v1.Service(
        metadata=meta_v1.ObjectMeta(
            name=NAME, namespace="default", labels={"component": "apiserver", "provider": "kubernetes"}
        ),
        spec=core_v1.ServiceSpec(
            type="ClusterIP",
            clusterIP=address,
            clusterIPs=[address],
            ipFamilies=[service_endpoints.family_of(address)],
            ipFamilyPolicy="SingleStack",
            sessionAffinity="None",
            internalTrafficPolicy="Cluster",
            ports=[core_v1.ServicePort(name=PORT_NAME, port=SERVICE_PORT, targetPort=where.port, protocol="TCP")],
        ),
    )


def reachable(where: Address) -> list[str]:
    """Addresses that pods can follow: a loopback address means another machine to each of them."""
    return sorted(a for a in where.addresses if not ipaddress.ip_address(a).is_loopback)


def endpoints(where: Address) -> core_v1.Endpoints:
    """The Endpoints `default/kubernetes`: the API servers' addresses."""
    return core_v1.Endpoints(
        metadata=meta_v1.ObjectMeta(name=NAME, namespace="default", labels={SKIP_MIRROR: "true"}),
        subsets=[
            core_v1.EndpointSubset(
                addresses=[core_v1.EndpointAddress(ip=a) for a in reachable(where)],
                ports=[core_v1.EndpointPort(name=PORT_NAME, port=where.port, protocol="TCP")],
            )
        ],
    )


def endpoint_slice(where: Address) -> discovery_v1.EndpointSlice:
    """The EndpointSlice `default/kubernetes`, in the family of the Service's address."""
    family = service_endpoints.family_of(cluster_ip(where.service_cidr))
    return discovery_v1.EndpointSlice(
        metadata=meta_v1.ObjectMeta(name=NAME, namespace="default", labels={SERVICE_NAME: NAME}),
        addressType=family,
        endpoints=[
            discovery_v1.Endpoint(addresses=[a], conditions=discovery_v1.EndpointConditions(ready=True))
            for a in reachable(where)
            if service_endpoints.family_of(a) == family
        ],
        ports=[discovery_v1.EndpointPort(name=PORT_NAME, port=where.port, protocol="TCP")],
    )


def cluster_info(where: Address) -> core_v1.ConfigMap:
    """The ConfigMap `kube-public/cluster-info`: a kubeconfig with a server and its CA, and no user."""
    found = build(server=where.url, ca_data=where.ca.encode())
    networks = cluster_info_map.Networks(pod_cidr=where.pod_cidr, service_cidr=where.service_cidr)
    (entry,) = found["clusters"]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": entry["cluster"]}],
        "contexts": [],
        "current-context": "",
        "preferences": {},
        "users": [],
    }
    return core_v1.ConfigMap(
        metadata=meta_v1.ObjectMeta(name=CLUSTER_INFO, namespace=CLUSTER_INFO_NAMESPACE),
        data={
            cluster_info_map.KUBECONFIG_KEY: yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=True),
            cluster_info_map.NETWORKS_KEY: networks.text(),
        },
    )


def mended(wanted: Any, current: Any, *, any_server: bool = False) -> Any | None:
    """What to write so that `current` has the contents of `wanted`; None if it has them.

    With `any_server` it does not matter which server a cluster-info names.
    Labels and annotations of others stay; so do fields that `wanted` says nothing about (the server's defaults).
    """
    before, want = objects.to_dict(current), objects.to_dict(wanted)
    # addresses of a Service cannot be changed, and other fields of it belong to its defaults
    after = {**before, **{k: v for k, v in want.items() if k != "metadata"}}
    if isinstance(wanted, core_v1.Service):
        after["spec"] = {**before["spec"], "ports": want["spec"]["ports"]}
    labels = {**before["metadata"].get("labels", {}), **want["metadata"].get("labels", {})}
    after["metadata"] = {**before["metadata"], **({"labels": labels} if labels else {})}
    if isinstance(wanted, core_v1.ConfigMap):
        networks = cluster_info_map.NETWORKS_KEY
        clusters = [_cluster_of(info) for info in (current, wanted)]
        if any_server:
            clusters = [{k: v for k, v in (cluster or {}).items() if k != "server"} for cluster in clusters]
        same = clusters[0] == clusters[1] and current.data.get(networks) == wanted.data.get(networks)
        after["data"] = before.get("data", {}) if same else {**before.get("data", {}), **want["data"]}
    return None if after == before else objects.from_dict(after, type(wanted))


def _cluster_of(info: core_v1.ConfigMap) -> Any:
    """Server and CA in a cluster-info, however its kubeconfig is laid out; None if it cannot be read."""
    try:
        return yaml.load(info.data["kubeconfig"], Loader=yaml.CSafeLoader)["clusters"][0]["cluster"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


class KubernetesServiceController(Controller):
    """Creates and mends what every cluster has."""

    name: ClassVar[str] = "kubernetes-service-controller"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context, *, where: Address) -> None:
        super().__init__(context)
        self._several = where.several
        self._wanted: dict[str, list[Any]] = {
            "Namespace": [*namespaces()],
            "Service": [service(where)],
            "Endpoints": [endpoints(where)] if reachable(where) else [],
            "EndpointSlice": [endpoint_slice(where)] if reachable(where) else [],
            "ConfigMap": [cluster_info(where)],
        }
        self._keys = {f"{kind} {objects.key(obj)}" for kind, found in self._wanted.items() for obj in found}
        self._informers: dict[str, Informer[Any]] = {
            "Namespace": self.watch(core_v1.Namespace, self._on("Namespace")),
            "Service": self.watch(core_v1.Service, self._on("Service")),
            "Endpoints": self.watch(core_v1.Endpoints, self._on("Endpoints")),
            "EndpointSlice": self.watch(discovery_v1.EndpointSlice, self._on("EndpointSlice")),
            "ConfigMap": self.watch(
                core_v1.ConfigMap,
                self._on("ConfigMap"),
                namespace=CLUSTER_INFO_NAMESPACE,
                field_selector=f"metadata.name={CLUSTER_INFO}",
            ),
        }

    async def start(self) -> None:
        for kind in self._wanted:
            self.queue.add(kind)

    def _on(self, kind: str) -> Callable[[Delta[Any]], None]:
        def handler(delta: Delta[Any]) -> None:
            if f"{kind} {objects.key(delta.object)}" in self._keys:
                self.queue.add(kind)

        return handler

    async def reconcile(self, key: str) -> float | None:
        for wanted in self._wanted[key]:
            current = self._informers[key].get(objects.key(wanted))
            if current is None:
                try:
                    await self.client.create(wanted)
                except ApiError as error:
                    if not is_already_exists(error):
                        raise
            elif not objects.is_deleting(current):
                mend = mended(wanted, current, any_server=self._several)
                if mend is not None:
                    await self.client.update(mend)
        return None
