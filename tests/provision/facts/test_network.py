"""A machine's network by what its `ip` says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from provision.facts.gather import understood
from provision.facts.network import network

LO = {"ifname": "lo", "link_type": "loopback", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]}
ETH0 = {
    "ifname": "eth0",
    "link_type": "ether",
    "address": "02:00:00:00:00:01",
    "addr_info": [
        {"family": "inet", "local": "192.0.2.5", "scope": "global"},
        {"family": "inet6", "local": "fe80::1", "scope": "link"},
    ],
}
DOCKER = {
    "ifname": "docker0",
    "link_type": "ether",
    "address": "02:00:00:00:00:02",
    "addr_info": [{"family": "inet", "local": "172.17.0.1", "scope": "global"}],
}
NEAR = {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel"}
DEFAULT = {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"}
ASKED = {"dst": "198.51.100.1", "dev": "eth0", "prefsrc": "192.0.2.6", "cache": []}


def said(*lists: list[dict[str, Any]]) -> str:
    """As `ip -batch` says it: one list after the other."""
    return "".join(f"{json.dumps(one)}\n" for one in lists)


@pytest.mark.parametrize(
    ("routes", "asked", "address"),
    [
        pytest.param([], [], "192.0.2.5", id="no route: the first address that is the machine's own"),
        pytest.param([NEAR], [ASKED], "192.0.2.5", id="a way out without a default route is somebody's tunnel"),
        pytest.param([DEFAULT, NEAR], [ASKED], "192.0.2.6", id="the address by which it goes out"),
        pytest.param([DEFAULT | {"prefsrc": "192.0.2.7"}], [], "192.0.2.7", id="the default route's"),
        pytest.param([DEFAULT | {"prefsrc": "192.0.2.7"}], [ASKED | {"dev": "lo"}], "192.0.2.7", id="never loopback's"),
    ],
)
def test_the_nodes_address(routes: list[dict[str, Any]], asked: list[dict[str, Any]], address: str) -> None:
    lists = [[LO, DOCKER, ETH0], routes, *([asked] if asked else [])]
    assert network(said(*lists))["node_address"] == address


def test_addresses_and_routes() -> None:
    routes = [
        DEFAULT,
        NEAR,
        {"dst": "203.0.113.9", "dev": "eth0"},
        {"dst": "10.96.0.0/12", "type": "unreachable"},
        {"dst": "10.244.1.0/24", "dev": "eth0", "protocol": "107"},
    ]
    found = network(said([LO, DOCKER, ETH0], routes, [ASKED]))
    assert found["addresses"] == ["172.17.0.1", "192.0.2.5"]
    assert found["macs"] == ["02:00:00:00:00:01"]
    assert [(one["destination"], one["interface"]) for one in found["routes"]] == [
        ("192.0.2.0/24", "eth0"),
        ("203.0.113.9/32", "eth0"),
    ]


def test_what_cannot_be_understood_leaves_the_rest() -> None:
    facts = understood(json.dumps({"hostname": "m1", "ip": 'Object "-batch" is unknown', "manifest": "{"}))
    assert (facts.hostname, facts.runtime, facts.addresses) == ("m1", {}, ())
    assert facts.problems[0].startswith("network: ")
    with pytest.raises(msgspec.MsgspecError):
        understood("Welcome!")


@pytest.mark.parametrize(
    ("info", "version", "swarm", "error"),
    [
        ('{"ServerVersion":"20.10.24","Swarm":{"LocalNodeState":"inactive"}}', "20.10.24", False, False),
        ('{"ServerVersion":"20.10.24","Swarm":{"LocalNodeState":"active"}}', "20.10.24", True, False),
        ("", "", False, True),
    ],
)
def test_docker(info: str, version: str, swarm: bool, error: bool) -> None:
    docker = understood(json.dumps({"docker": {"socket": "/s", "installed": True, "info": info}})).docker
    assert (docker.version, docker.swarm, bool(docker.error)) == (version, swarm, error)
