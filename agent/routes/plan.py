"""From the cluster's nodes and the kernel's routes to the routes that are to be made, changed and deleted. Pure.

    10.244.2.0/24 via 192.0.2.2 proto 108      (all pods of node two, by node two)

What can stand in the way is told and not tried:

- A node that is not on a network of this one cannot be a next hop. (Tunnels to such nodes are not built yet.)
- A route to the same pods that somebody else made stays; if it leads elsewhere, that is a finding.
- A Node claims its pod range and its address itself, and whoever holds a node's certificate can claim anything. So a
  range counts only inside of the cluster's, and only for the first who has it; this node's own is never given away.
"""

from __future__ import annotations

import bisect
import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from agent.routes.node_place import NodePlace

# Who made a route (`ip route` shows "proto 108"); free in /etc/iproute2/rt_protos, next to the proxy's.
ROUTE_PROTOCOL = 108
# What stands for the next hop of a route with several of them, or with one of another family.
SEVERAL = "several"

Network = ipaddress.IPv4Network


class Route(Struct, frozen=True, order=True):
    """A unicast IPv4 route of the main table. `gateway` is empty where the destination is on a connected network."""

    destination: str
    gateway: str = ""
    protocol: int = ROUTE_PROTOCOL
    metric: int = 0


class Problem(Struct, frozen=True, order=True):
    """Why there is no route to a node's pods."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"no route to the pods of node {self.node}: {self.reason}"


class Plan(Struct, frozen=True):
    """What to do. `replace` are routes of ours that lead elsewhere by now; `kept` are right as they are."""

    add: tuple[Route, ...] = ()
    replace: tuple[Route, ...] = ()
    delete: tuple[Route, ...] = ()
    kept: tuple[Route, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan(nodes: Iterable[NodePlace], own_name: str, existing: Sequence[Route], *, cluster_cidr: str) -> Plan:
    """How the kernel's routes get to what the nodes want. `existing` are all of the main table, also others'."""
    cluster = ipaddress.IPv4Network(cluster_cidr)
    mine = [_is_ours(route, cluster) for route in existing]
    ours = {route.destination: route for route in itertools.compress(existing, mine)}
    others = _Others(route for route, own in zip(existing, mine, strict=True) if not own)
    wanted: dict[str, Route] = {}
    problems: list[Problem] = []
    for node, destination, finding in _claims(nodes, own_name, cluster):
        gateway = "" if finding else others.next_hop(node)
        reason = finding or _unreachable(node, gateway) or others.conflict(destination, gateway)
        if reason:
            problems.append(Problem(node.name, reason))
        elif not others.have(destination):
            wanted[destination] = Route(destination, gateway)
    return Plan(
        add=tuple(sorted(route for place, route in wanted.items() if place not in ours)),
        replace=tuple(sorted(r for place, r in wanted.items() if place in ours and ours[place].gateway != r.gateway)),
        delete=tuple(sorted(route for place, route in ours.items() if place not in wanted)),
        kept=tuple(sorted(r for place, r in wanted.items() if place in ours and ours[place].gateway == r.gateway)),
        problems=tuple(sorted(problems)),
    )


def removal(existing: Sequence[Route], *, cluster_cidr: str) -> tuple[Route, ...]:
    """All routes of ours."""
    cluster = ipaddress.IPv4Network(cluster_cidr)
    return tuple(sorted(route for route in existing if _is_ours(route, cluster)))


def _claims(nodes: Iterable[NodePlace], own_name: str, cluster: Network) -> Iterator[tuple[NodePlace, str, str]]:
    """(node, pod range, why it does not count) for each range of each other node."""
    ordered = sorted(nodes, key=lambda node: (node.name != own_name, node.name))
    own_addresses = {address for node in ordered if node.name == own_name for address in node.addresses}
    taken = _Ranges()
    for node in ordered:
        for text in node.pod_cidrs:
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                yield node, text, f"{text!r} is no network"
                continue
            if not isinstance(network, Network):
                continue  # IPv6 has no routes yet
            owner = taken.owner(network)
            if node.name == own_name:
                taken.add(network, node.name)
            elif not network.subnet_of(cluster):
                yield node, text, f"{text} is not in the cluster's range {cluster}"
            elif owner:
                yield node, text, f"{text} is {owner}'s already"
            elif own_addresses.intersection(node.addresses):
                yield node, text, f"it has this node's own address {', '.join(node.addresses)}"
            else:
                taken.add(network, node.name)
                yield node, str(network), ""


class _Ranges:
    """Ranges that do not overlap, each with its owner, in the order of their addresses."""

    def __init__(self) -> None:
        self._ends: list[tuple[int, int, str]] = []  # last address, first address, owner

    def owner(self, network: Network) -> str:
        """Who has an address of this network already; empty: nobody."""
        first, last = int(network.network_address), int(network.broadcast_address)
        place = bisect.bisect_left(self._ends, (first,))
        return self._ends[place][2] if place < len(self._ends) and self._ends[place][1] <= last else ""

    def add(self, network: Network, owner: str) -> None:
        """Give a range to somebody. (Of two of the node's own that overlap, both count.)"""
        bisect.insort(self._ends, (int(network.broadcast_address), int(network.network_address), owner))


class _Others:
    """Routes that are not ours, ready to be asked about many nodes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_destination: dict[str, list[Route]] = {}
        for route in routes:
            self._by_destination.setdefault(route.destination, []).append(route)
        parsed = ((Network(text), found) for text, found in self._by_destination.items())
        # the longest first: the first that matches decides
        self._leading = sorted(
            ((n.prefixlen, int(n.network_address), int(n.netmask), any(not r.gateway for r in f)) for n, f in parsed),
            reverse=True,
        )

    def next_hop(self, node: NodePlace) -> str:
        """The first of the node's addresses that is on a connected network; empty if none is."""
        return next((address for address in node.addresses if self._is_connected(address)), "")

    def _is_connected(self, address: str) -> bool:
        try:
            wanted = int(ipaddress.IPv4Address(address))
        except ValueError:
            return False
        for length, network, mask, connected in self._leading:
            if wanted & mask == network:
                return length > 0 and connected
        return False

    def have(self, destination: str) -> bool:
        """Whether somebody else has made a route to the same pods."""
        return destination in self._by_destination

    def conflict(self, destination: str, gateway: str) -> str:
        """What is wrong with their route; empty if it leads to the same node, or there is none."""
        for route in self._by_destination.get(destination, ()):
            if route.gateway != gateway:
                where = f"via {route.gateway}" if route.gateway else "on a connected network"
                return f"somebody else has made a route to {destination}, {where} instead of {gateway}"
        return ""


def _unreachable(node: NodePlace, gateway: str) -> str:
    if gateway:
        return ""
    if not node.addresses:
        return "it has no internal address"
    return f"its address {', '.join(node.addresses)} is not on a network of this node"


def _is_ours(route: Route, cluster: Network) -> bool:
    return route.protocol == ROUTE_PROTOCOL and Network(route.destination).subnet_of(cluster)
