"""Which UDP flows have to be forgotten."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.proxy.conntrack import Flow, UdpChange, stale, udp_changes
from agent.proxy.service_port import Protocol
from tests.agent.proxy.samples import HERE, NODE, THERE, web

DNS = web(HERE, protocol=Protocol.UDP, port=53, node_port=30053)
CHANGE = UdpChange(frozenset({"10.96.0.10"}), 53, 30053, frozenset({("10.244.1.11", 8080)}))


def test_only_changed_udp_ports_count() -> None:
    moved = replace(DNS, endpoints=(THERE,))
    assert udp_changes({DNS.key: DNS}, {DNS.key: DNS}, NODE) == []
    assert udp_changes({}, {"x": web(HERE)}, NODE) == []
    assert udp_changes({}, {DNS.key: DNS}, NODE) == [CHANGE]
    assert {c.endpoints for c in udp_changes({DNS.key: DNS}, {DNS.key: moved}, NODE)} == {
        frozenset({("10.244.2.21", 8080)})
    }
    assert udp_changes({DNS.key: DNS}, {}, NODE) == [replace(CHANGE, endpoints=frozenset())]


@pytest.mark.parametrize(
    ("flow", "is_stale"),
    [
        (Flow("10.96.0.10", 53, "10.244.1.11", 8080), False),
        (Flow("10.96.0.10", 53, "10.244.1.99", 8080), True),
        (Flow("10.96.0.10", 53, "10.96.0.10", 53), True),  # began before the Service
        (Flow("10.96.0.10", 54, "10.244.1.99", 8080), False),
        (Flow("10.96.0.11", 53, "10.244.1.99", 8080), False),
        (Flow("192.0.2.1", 30053, "10.244.1.99", 8080), True),
        (Flow("192.0.2.1", 30053, "10.244.1.11", 8080), False),
        (Flow("192.0.2.1", 30053, "192.0.2.1", 30053), True),
        (Flow("198.51.100.7", 30053, "198.51.100.7", 30053), False),  # a stranger's port of the same number
    ],
)
def test_stale(flow: Flow, is_stale: bool) -> None:
    assert stale([flow], [CHANGE], NODE) == ([flow] if is_stale else [])
