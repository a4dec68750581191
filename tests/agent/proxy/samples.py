"""Service ports and nodes that several tests speak of."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from agent.proxy.service_port import Endpoint, NodeNetwork, Protocol, ServicePort

NODE = NodeNetwork("one", ips=("192.0.2.1",))

HERE = Endpoint("10.244.1.11", 8080, "one")
HERE_TOO = Endpoint("10.244.1.12", 8080, "one")
THERE = Endpoint("10.244.2.21", 8080, "two")
THERE_TOO = Endpoint("10.244.2.22", 8080, "two")

WEB = ServicePort("default", "web", "http", Protocol.TCP, 80, cluster_ips=("10.96.0.10",))


def web(*endpoints: Endpoint, **changes: Any) -> ServicePort:
    """The port of a Service `default/web`, 10.96.0.10:80 over TCP, with these endpoints and changes."""
    return replace(WEB, endpoints=endpoints, **changes)


def ending(endpoint: Endpoint, *, serving: bool = True) -> Endpoint:
    """The endpoint while its pod terminates."""
    return replace(endpoint, ready=False, serving=serving, terminating=True)


def unready(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, ready=False, serving=False)
