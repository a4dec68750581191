"""Services and EndpointSlices of the API as the proxy's own data."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy
from agent.proxy.services import service_key, service_ports
from kube.models import core_v1, discovery_v1


def _service(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None, **spec: Any) -> Any:
    body = {
        "metadata": {
            "name": "web",
            "namespace": "default",
            "labels": labels or {},
            "annotations": annotations or {},
        },
        "spec": {
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
            **spec,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}, {"ip": "203.0.113.6", "ipMode": "Proxy"}]}},
    }
    return msgspec.convert(body, core_v1.Service)


def _slice(
    *endpoints: dict[str, Any], ports: list[dict[str, Any]] | None = None, **changes: Any
) -> discovery_v1.EndpointSlice:
    body = {
        "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": list(endpoints),
        "ports": ports if ports is not None else [{"name": "http", "port": 8080, "protocol": "TCP"}],
        **changes,
    }
    return msgspec.convert(body, discovery_v1.EndpointSlice)


READY = {"addresses": ["10.244.1.5"], "nodeName": "one", "conditions": {"ready": True}}


def _only(service: Any, *slices: discovery_v1.EndpointSlice) -> ServicePort:
    (port,) = service_ports(service, slices)
    return port


def test_a_plain_service() -> None:
    assert _only(_service(), _slice(READY)) == ServicePort(
        "default",
        "web",
        "http",
        Protocol.TCP,
        80,
        cluster_ips=("10.96.0.10",),
        endpoints=(Endpoint("10.244.1.5", 8080, "one"),),
    )


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({}, "node_port", 0),  # a number left over from another type
        ({"type": "NodePort"}, "node_port", 30080),
        ({"type": "LoadBalancer"}, "node_port", 30080),
        ({"type": "NodePort"}, "load_balancer_ips", ()),
        ({"type": "LoadBalancer"}, "load_balancer_ips", ("203.0.113.5",)),
        ({"externalIPs": ["203.0.113.9", "2001:db8::1"]}, "external_ips", ("203.0.113.9",)),
        ({"clusterIPs": ["2001:db8::2", "10.96.0.10"]}, "cluster_ips", ("10.96.0.10",)),
        ({"sessionAffinity": "None"}, "affinity_seconds", 0),
        ({"sessionAffinity": "ClientIP"}, "affinity_seconds", 10_800),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
            "affinity_seconds",
            5,
        ),
        ({"internalTrafficPolicy": "Local"}, "internal_policy", TrafficPolicy.LOCAL),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, "external_policy", TrafficPolicy.LOCAL),
        ({"externalTrafficPolicy": "Local"}, "external_policy", TrafficPolicy.CLUSTER),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, "protocol", Protocol.UDP),
        ({"ports": [{"port": 53}]}, "protocol", Protocol.TCP),
        ({}, "prefer_same_node", True),
        ({"trafficDistribution": "PreferClose"}, "prefer_same_node", True),
    ],
)
def test_fields(spec: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(_only(_service(**spec)), field) == value


def test_preference_can_be_switched_off() -> None:
    port = _only(_service(annotations={"service.kubernetes.io/topology-mode": "Disabled"}))
    assert not port.prefer_same_node


@pytest.mark.parametrize(
    "service",
    [
        _service(clusterIP="None", clusterIPs=["None"]),
        _service(type="ExternalName"),
        _service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
        _service(clusterIP="2001:db8::2", clusterIPs=["2001:db8::2"]),
        _service(clusterIP=None, clusterIPs=[]),
        _service(ports=[{"port": 80, "protocol": "SCTP"}]),
        core_v1.Service(),
    ],
    ids=["headless", "external name", "another proxy's", "IPv6", "no address yet", "SCTP", "no spec"],
)
def test_not_ours(service: core_v1.Service) -> None:
    assert service_ports(service, [_slice(READY)]) == []


@pytest.mark.parametrize(
    ("conditions", "ready", "serving", "terminating"),
    [
        (None, True, True, False),
        ({}, True, True, False),
        ({"ready": False}, False, False, False),
        ({"ready": False, "serving": True, "terminating": True}, False, True, True),
        ({"ready": True, "serving": True, "terminating": True}, True, True, True),
    ],
)
def test_conditions(conditions: dict[str, bool] | None, ready: bool, serving: bool, terminating: bool) -> None:
    endpoint = {"addresses": ["10.244.1.5"], **({"conditions": conditions} if conditions is not None else {})}
    (found,) = _only(_service(), _slice(endpoint)).endpoints
    assert (found.ready, found.serving, found.terminating) == (ready, serving, terminating)


@pytest.mark.parametrize(
    "slice_",
    [
        _slice(READY, ports=[{"name": "metrics", "port": 9100, "protocol": "TCP"}]),
        _slice(READY, ports=[{"name": "http", "port": 8080, "protocol": "UDP"}]),
        _slice(READY, ports=[]),
        _slice(READY, addressType="FQDN"),
        _slice({"addresses": []}),
        *(_slice({"addresses": [ip]}) for ip in ("127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "no")),
    ],
)
def test_endpoints_that_do_not_count(slice_: discovery_v1.EndpointSlice) -> None:
    assert _only(_service(), slice_).endpoints == ()


def test_each_port_finds_its_own_endpoints_in_all_slices() -> None:
    service = _service(ports=[{"name": "http", "port": 80}, {"name": "admin", "port": 81}])
    both = [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}]
    other = {"addresses": ["10.244.2.5"], "nodeName": "two"}
    http, admin = service_ports(service, [_slice(READY, ports=both), _slice(other, ports=both[:1])])
    assert [(e.ip, e.port) for e in http.endpoints] == [("10.244.1.5", 8080), ("10.244.2.5", 8080)]
    assert [(e.ip, e.port) for e in admin.endpoints] == [("10.244.1.5", 9090)]


def test_whose_slice_it_is() -> None:
    assert service_key(_slice()) == "default/web"
    assert service_key(discovery_v1.EndpointSlice()) == ""
