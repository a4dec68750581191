"""Pods' host ports (Kubernetes: `hostPort`) as what they are to the rules: NodePorts of this node alone. Pure.

The engine publishes host ports, too, and keeps others from taking them. But an engine without firewall rules has a
program pass on every byte, and the pod sees the node's address instead of its client's. Rules come before that program;
it serves what they leave out: ports of one address only (`hostIP`), and pods whose address is not known yet.
"""

from __future__ import annotations

from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy
from kube import objects
from kube.models import core_v1

_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP}
# Without it the pod's address is one that it had.
_HAS_SANDBOX = "PodReadyToStartContainers"


def service_ports(pod: core_v1.Pod, status: core_v1.PodStatus | None, node: str) -> tuple[ServicePort, ...]:
    """The host ports of a pod on this node; none without a sandbox of its own, or at its end (None: it is gone)."""
    if pod.spec is None or pod.spec.hostNetwork or status is None or status.phase in ("Succeeded", "Failed"):
        return ()
    sandbox = objects.condition(status.conditions, _HAS_SANDBOX)
    if sandbox is None or sandbox.status != "True" or not status.podIP:
        return ()
    return tuple(
        ServicePort(
            namespace=objects.namespace(pod),
            name=objects.name(pod),
            port_name=f"host-port-{protocol}-{port.hostPort}",  # longer than a Service's: no key is that of a Service
            protocol=protocol,
            port=port.hostPort,
            node_port=port.hostPort,
            external_policy=TrafficPolicy.LOCAL,
            endpoints=(Endpoint(status.podIP, port.containerPort, node),),
        )
        for port in (port for container in (*pod.spec.initContainers, *pod.spec.containers) for port in container.ports)
        if port.hostPort
        and port.containerPort
        and port.hostIP in (None, "", "0.0.0.0")  # noqa: S104
        and (protocol := _PROTOCOLS.get(port.protocol or "TCP"))
    )
