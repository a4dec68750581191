from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from kube.errors import KtoolError
from provision.providers.redfish.segment import HostInterface, choose, interfaces_of_host, name_servers

HERE = [
    HostInterface("eth0", IPv4Interface("203.0.113.9/24")),
    HostInterface("br0", IPv4Interface("192.0.2.1/24")),
]


@pytest.mark.parametrize(
    ("bridge", "addresses", "wanted"),
    [
        ("", ["192.0.2.21", "192.0.2.22"], ("br0", "192.0.2.1", "")),
        ("", ["203.0.113.5"], ("eth0", "203.0.113.9", "203.0.113.1")),
        ("br0", [], ("br0", "192.0.2.1", "")),
        ("br0", ["10.0.0.1"], ("br0", "192.0.2.1", "")),  # reached otherwise, later
    ],
)
def test_choose(bridge: str, addresses: list[str], wanted: tuple[str, str, str]) -> None:
    found = choose(HERE, bridge=bridge, addresses=addresses, gateways=["203.0.113.1"])
    assert (found.interface, found.address, found.gateway) == wanted


@pytest.mark.parametrize(
    ("bridge", "addresses"), [("br9", ["192.0.2.21"]), ("", []), ("", ["192.0.2.21", "203.0.113.5"])]
)
def test_no_such_interface(bridge: str, addresses: list[str]) -> None:
    with pytest.raises(KtoolError) as raised:
        choose(HERE, bridge=bridge, addresses=addresses)
    assert "br0 192.0.2.1/24" in raised.value.found
    assert raised.value.mend


def test_interfaces_of_host() -> None:
    told = """[{"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]}, {},
        {"ifname": "br0", "addr_info": [{"local": "192.0.2.1", "prefixlen": 24}, {}]}]"""
    assert interfaces_of_host(lambda argv, **_: told) == HERE[1:]


def test_name_servers() -> None:
    text = "# ours\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver bad\nsearch example.com\nnameserver ::1\n"
    assert name_servers(text) == ("192.0.2.53",)
