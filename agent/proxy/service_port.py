"""What the proxy knows of one port of a Service, and of the node that it runs on: plain data, no API objects.

A `ServicePort` is one entry of a Service's `spec.ports` joined with the endpoints behind it (upstream: kube-proxy's
`ServicePort` and `Endpoint`). IPv4 only for now: a second family is a second table fed by a second conversion; nothing
here depends on the family but the text of the addresses.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Protocol(StrEnum):
    """Transport protocols that nftables can balance here; the value is nft's name. (SCTP: not in every kernel.)"""

    TCP = "tcp"
    UDP = "udp"


class TrafficPolicy(StrEnum):
    """Which nodes' endpoints may answer (Kubernetes: `internalTrafficPolicy`, `externalTrafficPolicy`)."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Endpoint(Struct, frozen=True, order=True):
    """One address that can answer for a Service port (Kubernetes: an EndpointSlice's endpoint and port)."""

    ip: str
    port: int
    node_name: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False


class ServicePort(Struct, frozen=True):
    """One port of a Service with its endpoints.

    `affinity_seconds` is 0 without session affinity, otherwise how long a client (an IP) sticks to an endpoint.
    `node_port` is 0 if there is none. `prefer_same_node` sends traffic to endpoints on this node while there are ready
    ones, under the Cluster policies (Kubernetes: `trafficDistribution`).
    """

    namespace: str
    name: str
    port_name: str
    protocol: Protocol
    port: int
    cluster_ips: tuple[str, ...] = ()
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    affinity_seconds: int = 0
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    prefer_same_node: bool = True
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name/port`, unique in the cluster; the protocol tells unnamed ports apart."""
        return f"{self.namespace}/{self.name}/{self.port_name or f'{self.protocol}-{self.port}'}"


class NodeNetwork(Struct, frozen=True):
    """The node as the proxy sees it.

    `name` is the Node's name, `ips` its own addresses; `cluster_cidr` holds all pods of the cluster, `service_cidr` all
    ClusterIPs; `bridge` is the link that the node's pods hang on. `masquerade_all` hides every client's address: the
    way out where the kernel shows bridged packets to nobody (no br_netfilter). `masquerade_pods` hides pods' addresses
    from what is outside of the cluster.
    """

    name: str
    ips: tuple[str, ...] = ()
    cluster_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    bridge: str = "ktool0"
    masquerade_all: bool = False
    masquerade_pods: bool = True
