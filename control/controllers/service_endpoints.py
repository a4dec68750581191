"""How a Service and a pod become an endpoint: which pods, which addresses, which ports. Pure.

Shared by EndpointSlices and the older Endpoints, so that both always tell the same story.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from control.controllers import pod_state
from kube import objects
from kube.models import core_v1, discovery_v1

IPV4 = "IPv4"
IPV6 = "IPv6"
ZONE_LABEL = "topology.kubernetes.io/zone"
HEADLESS_LABEL = "service.kubernetes.io/headless"
PREFER_CLOSE = frozenset({"PreferClose", "PreferSameZone"})


def wants_endpoints(service: core_v1.Service) -> bool:
    """Whether the Service's endpoints are made from pods: it has a selector and is no mere alias."""
    return bool(service.spec and service.spec.selector and service.spec.type != "ExternalName")


def is_headless(service: core_v1.Service) -> bool:
    """Whether the Service has no address of its own (`clusterIP: None`)."""
    return bool(service.spec and service.spec.clusterIP == "None")


def selects(service: core_v1.Service, pod: core_v1.Pod) -> bool:
    """Whether the Service's selector matches the pod; an empty one matches nothing."""
    wanted = service.spec.selector if service.spec else {}
    labels = objects.meta(pod).labels
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def families(service: core_v1.Service) -> list[str]:
    """Address families of the Service; without any word of it those of its cluster addresses, else IPv4."""
    assert service.spec is not None
    if service.spec.ipFamilies:
        return service.spec.ipFamilies
    addresses = service.spec.clusterIPs or ([service.spec.clusterIP] if service.spec.clusterIP else [])
    found = [family_of(address) for address in addresses if address != "None"]
    return [*dict.fromkeys(f for f in found if f)] or [IPV4]


def family_of(address: str) -> str:
    """`IPv4`, `IPv6`, or empty if it is no address."""
    try:
        return IPV4 if ipaddress.ip_address(address).version == 4 else IPV6
    except ValueError:
        return ""


def addresses(pod: core_v1.Pod, family: str) -> list[str]:
    """The pod's addresses of a family."""
    if pod.status is None:
        return []
    found = [p.ip for p in pod.status.podIPs if p.ip] or ([pod.status.podIP] if pod.status.podIP else [])
    return [address for address in found if family_of(address) == family]


def is_candidate(pod: core_v1.Pod) -> bool:
    """Whether the pod can be an endpoint at all: it has an address and has not ended."""
    return not pod_state.is_terminal(pod) and bool(pod.status and (pod.status.podIP or pod.status.podIPs))


def has_changed(old: core_v1.Pod, new: core_v1.Pod) -> bool:
    """Whether a change of a pod can change endpoints: most status updates cannot."""
    return _facts(old) != _facts(new)


def _facts(pod: core_v1.Pod) -> tuple[object, ...]:
    status, spec = pod.status or core_v1.PodStatus(), pod.spec or core_v1.PodSpec()
    meta = objects.meta(pod)
    return (
        meta.labels,
        meta.deletionTimestamp is None,
        status.podIP,
        [p.ip for p in status.podIPs],
        pod_state.is_terminal(pod),
        pod_state.is_ready(pod),
        spec.nodeName,
        spec.hostname,
        spec.subdomain,
        meta.uid,
    )


def target_port(port: core_v1.ServicePort, pod: core_v1.Pod) -> int | None:
    """Number of the pod's port that a Service's port leads to; None if it is a name that the pod does not have."""
    target = port.targetPort
    if target is None or target in (0, ""):
        return port.port
    if isinstance(target, int):
        return target
    spec = pod.spec or core_v1.PodSpec()
    # init containers that keep running (sidecars) serve too
    sidecars = [c for c in spec.initContainers if c.restartPolicy == "Always"]
    for container in [*spec.containers, *sidecars]:
        for found in container.ports:
            if found.name == target and (found.protocol or "TCP") == (port.protocol or "TCP"):
                return found.containerPort
    return None


def endpoint_ports(service: core_v1.Service, pod: core_v1.Pod) -> list[discovery_v1.EndpointPort]:
    """The Service's ports as they are on this pod; those that the pod does not have are left out."""
    assert service.spec is not None
    found = []
    for port in service.spec.ports:
        number = target_port(port, pod)
        if number is not None:
            found.append(
                discovery_v1.EndpointPort(
                    # present even when empty: it is what the port is matched by
                    name=port.name or "",
                    port=number,
                    protocol=port.protocol or "TCP",
                    appProtocol=port.appProtocol,
                )
            )
    return found


def endpoint(
    service: core_v1.Service, pod: core_v1.Pod, family: str, *, zone: str | None = None
) -> discovery_v1.Endpoint | None:
    """The pod as an endpoint of the Service; None if it has no address of that family.

    `serving` is readiness; a pod that is being deleted may still serve, but is `ready` only for Services that publish
    addresses regardless.
    """
    found = addresses(pod, family)
    if not found:
        return None
    serving, terminating = pod_state.is_ready(pod), objects.is_deleting(pod)
    publish = bool(service.spec and service.spec.publishNotReadyAddresses)
    meta, spec = objects.meta(pod), pod.spec or core_v1.PodSpec()
    hints = None
    if zone and service.spec and service.spec.trafficDistribution in PREFER_CLOSE:
        hints = discovery_v1.EndpointHints(forZones=[discovery_v1.ForZone(name=zone)])
    return discovery_v1.Endpoint(
        addresses=found,
        conditions=discovery_v1.EndpointConditions(
            ready=publish or (serving and not terminating), serving=serving, terminating=terminating
        ),
        hostname=spec.hostname if spec.subdomain == objects.name(service) and spec.hostname else None,
        nodeName=spec.nodeName,
        targetRef=pod_reference(meta.name, meta.namespace, meta.uid),
        zone=zone,
        hints=hints,
    )


def pod_reference(name: str | None, namespace: str | None, uid: str | None) -> core_v1.ObjectReference:
    """Reference to a pod as endpoints carry it."""
    return core_v1.ObjectReference(kind="Pod", name=name, namespace=namespace, uid=uid)


def zones(nodes: Iterable[core_v1.Node]) -> Mapping[str, str]:
    """Zone of each node that has one."""
    return {objects.name(n): n.metadata.labels[ZONE_LABEL] for n in nodes if ZONE_LABEL in n.metadata.labels}
