"""Where this host meets the machines: the interface on whose network they boot, and what they are to know of it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from kube.errors import KtoolError
from provision.command import Runner, run


@dataclass(frozen=True, slots=True)
class HostInterface:
    """An interface of this host with one of its addresses."""

    name: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class Segment:
    """The network that machines boot from: this host's interface and address in it; the way out, if there is one."""

    interface: str
    address: str
    network: IPv4Network
    gateway: str = ""


def choose(
    interfaces: Sequence[HostInterface], *, bridge: str, addresses: Sequence[str], gateways: Sequence[str] = ()
) -> Segment:
    """The segment on the interface `bridge`, else on the interface whose network has all the machines' addresses.

    `gateways` are this host's default gateways: the machines get the one in their network. KtoolError if no interface
    is the right one.
    """
    wanted = [IPv4Address(address) for address in addresses]
    for interface in interfaces:
        network = interface.address.network
        if interface.name == bridge or (not bridge and wanted and all(address in network for address in wanted)):
            return Segment(
                interface=interface.name,
                address=str(interface.address.ip),
                network=network,
                gateway=next((gateway for gateway in gateways if IPv4Address(gateway) in network), ""),
            )
    here = ", ".join(f"{one.name} {one.address}" for one in interfaces) or "none"
    if bridge:
        raise KtoolError(
            f"the interface {bridge}, from which machines are to boot, has no IPv4 address here",
            found=here,
            wanted=f"{bridge} with an address in the machines' network",
            mend=f"ip addr add ADDRESS/PREFIX dev {bridge}, or set another ktool_network_bridge",
        )
    raise KtoolError(
        "this host has no interface on the network from which the machines boot",
        found=here,
        wanted=f"one on whose network {', '.join(addresses) or 'they are'} {'are' if len(addresses) > 1 else 'is'}",
        mend="name it with ktool_network_bridge (and ktool_network_mode: existing), or run ktool on a host beside them",
    )


def interfaces_of_host(runner: Runner = run) -> list[HostInterface]:
    """This host's interfaces that are no loopback, one entry for each IPv4 address."""
    return [
        HostInterface(str(link["ifname"]), IPv4Interface(f"{one['local']}/{one['prefixlen']}"))
        for link in json.loads(runner(["ip", "-json", "-4", "address", "show"]) or "[]")
        for one in link.get("addr_info", ())
        if "local" in one and not ipaddress.ip_address(one["local"]).is_loopback
    ]


def gateways_of_host(runner: Runner = run) -> list[str]:
    """This host's default gateways."""
    routes = json.loads(runner(["ip", "-json", "-4", "route", "show", "default"]) or "[]")
    return [str(route["gateway"]) for route in routes if "gateway" in route]


def name_servers(resolv_conf: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf(5) that others can use too: those that are not this host itself."""
    found = [
        words[1] for line in resolv_conf.splitlines() if len(words := line.split()) > 1 and words[0] == "nameserver"
    ]
    return tuple(one for one in found if _is_elsewhere(one))


def _is_elsewhere(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
