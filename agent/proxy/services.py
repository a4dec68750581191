"""From API objects to the proxy's own data: Services joined with their EndpointSlices. Pure.

What cannot be forwarded is left out, as upstream's proxy does: headless and ExternalName Services, Services and slices
that name another proxy, protocols other than TCP and UDP, addresses other than IPv4, and endpoints on loopback,
link-local or multicast addresses (who may write a slice must not reach the node's own services by it).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy
from kube.models import core_v1, discovery_v1

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
# set by who wants another proxy to serve a Service
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
# "Disabled" spreads over all nodes, without preference for the client's
TOPOLOGY_MODE_ANNOTATION = "service.kubernetes.io/topology-mode"

_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP}
# Kubernetes' default for sessionAffinityConfig.clientIP.timeoutSeconds
_AFFINITY_SECONDS = 10_800


def service_ports(service: core_v1.Service, slices: Iterable[discovery_v1.EndpointSlice]) -> list[ServicePort]:
    """The ports of a Service that this proxy serves, in the order of its spec; empty if it serves none.

    `slices` are the Service's EndpointSlices (those labelled with its name in its namespace).
    """
    spec = service.spec
    if spec is None or spec.type == "ExternalName" or PROXY_NAME_LABEL in service.metadata.labels:
        return []
    cluster_ips = _addresses(spec.clusterIPs or ([spec.clusterIP] if spec.clusterIP else []))
    if not cluster_ips:
        return []
    usable = [s for s in slices if _usable(s)]
    outside = spec.type in ("NodePort", "LoadBalancer")
    external_ips = _addresses(spec.externalIPs)
    ports = []
    for port in spec.ports:
        protocol = _PROTOCOLS.get(port.protocol or "TCP")
        if protocol is None or not port.port:
            continue
        ports.append(
            ServicePort(
                namespace=service.metadata.namespace or "",
                name=service.metadata.name or "",
                port_name=port.name or "",
                protocol=protocol,
                port=port.port,
                cluster_ips=cluster_ips,
                node_port=(port.nodePort or 0) if outside else 0,
                external_ips=external_ips,
                load_balancer_ips=_load_balancer_ips(service) if spec.type == "LoadBalancer" else (),
                affinity_seconds=_affinity_seconds(spec),
                internal_policy=_policy(spec.internalTrafficPolicy),
                external_policy=_policy(spec.externalTrafficPolicy) if outside or external_ips else _policy(None),
                prefer_same_node=service.metadata.annotations.get(TOPOLOGY_MODE_ANNOTATION) != "Disabled",
                endpoints=tuple(sorted(set(_endpoints(port, protocol, usable)))),
            )
        )
    return ports


def service_key(slice_: discovery_v1.EndpointSlice) -> str:
    """`namespace/name` of the Service that a slice belongs to, empty if it does not say."""
    name = slice_.metadata.labels.get(SERVICE_NAME_LABEL, "")
    return f"{slice_.metadata.namespace}/{name}" if name else ""


def _usable(slice_: discovery_v1.EndpointSlice) -> bool:
    labels = slice_.metadata.labels
    return slice_.addressType == "IPv4" and HEADLESS_LABEL not in labels and PROXY_NAME_LABEL not in labels


def _endpoints(
    port: core_v1.ServicePort, protocol: Protocol, slices: Iterable[discovery_v1.EndpointSlice]
) -> Iterable[Endpoint]:
    for slice_ in slices:
        # a slice's ports carry the names of the Service's ports, the number is the endpoints' own
        numbers = {
            p.port
            for p in slice_.ports
            if (p.name or "") == (port.name or "") and _PROTOCOLS.get(p.protocol or "TCP") is protocol and p.port
        }
        for endpoint in slice_.endpoints:
            # the addresses of one endpoint lead to the same pod: the first is enough
            ip = next(iter(_addresses(endpoint.addresses)), "")
            if not ip or not _reachable(ip):
                continue
            conditions = endpoint.conditions or discovery_v1.EndpointConditions()
            ready = conditions.ready is not False
            for number in numbers:
                yield Endpoint(
                    ip=ip,
                    port=number,
                    node_name=endpoint.nodeName or "",
                    ready=ready,
                    serving=ready if conditions.serving is None else conditions.serving,
                    terminating=bool(conditions.terminating),
                )


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """The IPv4 addresses among some texts, in their order, each once."""
    return tuple(dict.fromkeys(text for text in texts if _is_ipv4(text)))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:  # "None" of a headless Service, IPv6
        return False
    return True


def _reachable(ip: str) -> bool:
    address = ipaddress.IPv4Address(ip)
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def _load_balancer_ips(service: core_v1.Service) -> tuple[str, ...]:
    if service.status is None or service.status.loadBalancer is None:
        return ()
    # in mode Proxy the load balancer sends to node ports and wants its address left alone
    return _addresses(i.ip or "" for i in service.status.loadBalancer.ingress if i.ipMode != "Proxy")


def _affinity_seconds(spec: core_v1.ServiceSpec) -> int:
    if spec.sessionAffinity != "ClientIP":
        return 0
    config = spec.sessionAffinityConfig
    seconds = config.clientIP.timeoutSeconds if config and config.clientIP else None
    return seconds or _AFFINITY_SECONDS


def _policy(text: str | None) -> TrafficPolicy:
    return TrafficPolicy.LOCAL if text == TrafficPolicy.LOCAL else TrafficPolicy.CLUSTER
