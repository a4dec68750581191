"""Pods' host ports as NodePorts of this node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.proxy.host_ports import service_ports
from kube.models import core_v1


def pod(**port: Any) -> core_v1.Pod:
    spec = {"containers": [{"name": "c", "ports": [{"containerPort": 8080, **port}]}]}
    return msgspec.convert({"metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": spec}, core_v1.Pod)


def status(phase: str = "Running", *, sandbox: bool = True) -> core_v1.PodStatus:
    condition = core_v1.PodCondition(type="PodReadyToStartContainers", status=str(sandbox))
    return core_v1.PodStatus(phase=phase, podIP="10.244.1.11", conditions=[condition])


@pytest.mark.parametrize(
    ("port", "seen", "found"),
    [
        ({"hostPort": 80}, status(), [("tcp", 80)]),
        ({"hostPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"}, status(), [("udp", 53)]),
        ({}, status(), []),
        ({"hostPort": 80, "hostIP": "192.0.2.1"}, status(), []),
        ({"hostPort": 80, "protocol": "SCTP"}, status(), []),
        ({"hostPort": 80}, status(sandbox=False), []),
        ({"hostPort": 80}, status("Succeeded"), []),
        ({"hostPort": 80}, None, []),
    ],
)
def test_host_ports(port: dict[str, Any], seen: core_v1.PodStatus | None, found: list[tuple[str, int]]) -> None:
    made = pod(**port)
    assert [(one.protocol, one.node_port) for one in service_ports(made, seen, "one")] == found
    assert made.spec is not None
    made.spec.hostNetwork = True
    assert service_ports(made, seen, "one") == ()
