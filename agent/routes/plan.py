"""From the cluster's nodes and the kernel's routes to the routes that are to be made, changed and deleted. Pure.

    10.244.2.0/24 via 192.0.2.2 proto 108      (all pods of node two, by node two)

What can stand in the way is told and not tried:

- A node that is not on a network of this one cannot be a next hop. (Tunnels to such nodes are not built yet.)
- A route to the same pods that somebody else made stays; if it leads elsewhere, that is a finding.
- A Node claims its pod range and its address itself, and whoever holds a node's certificate can claim anything. So a
  range counts only inside of the cluster's, and only for the first who has it; this node's own is never given away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.routes.node_place import NodePlace

# Who made a route (`ip route` shows "proto 108"); free in /etc/iproute2/rt_protos, next to the proxy's.
ROUTE_PROTOCOL = 108
# What stands for the next hop of a route with several of them, or with one of another family.
SEVERAL = "several"

Network = ipaddress.IPv4Network


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A unicast IPv4 route of the main table. `gateway` is empty where the destination is on a connected network."""

    destination: str
    gateway: str = ""
    protocol: int = ROUTE_PROTOCOL
    metric: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why there is no route to a node's pods."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"no route to the pods of node {self.node}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `replace` are routes of ours that lead elsewhere by now; `kept` are right as they are."""

    add: tuple[Route, ...] = ()
    replace: tuple[Route, ...] = ()
    delete: tuple[Route, ...] = ()
    kept: tuple[Route, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan(nodes: Iterable[NodePlace], own_name: str, existing: Sequence[Route], *, cluster_cidr: str) -> Plan:
    """How the kernel's routes get to what the nodes want. `existing` are all of the main table, also others'."""
    cluster = ipaddress.IPv4Network(cluster_cidr)
    wanted: dict[str, Route] = {}
    problems: list[Problem] = []
    for node, network, finding in _claims(nodes, own_name, cluster):
        gateway = "" if finding else _next_hop(node, existing)
        reason = finding or _unreachable(node, gateway) or _conflict(str(network), gateway, existing)
        if reason:
            problems.append(Problem(node.name, reason))
        elif not any(_same(route, str(network), gateway) for route in existing if not _is_ours(route, cluster)):
            wanted[str(network)] = Route(str(network), gateway)
    ours = {route.destination: route for route in existing if _is_ours(route, cluster)}
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


def _claims(
    nodes: Iterable[NodePlace], own_name: str, cluster: Network
) -> Iterator[tuple[NodePlace, Network | str, str]]:
    """(node, pod range, why it does not count) for each range of each other node."""
    ordered = sorted(nodes, key=lambda node: (node.name != own_name, node.name))
    taken: dict[Network, str] = {}
    own_addresses = {address for node in ordered if node.name == own_name for address in node.addresses}
    for node in ordered:
        for text in node.pod_cidrs:
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                yield node, text, f"{text!r} is no network"
                continue
            if not isinstance(network, Network):
                continue  # IPv6 has no routes yet
            owner = next((name for other, name in taken.items() if other.overlaps(network)), "")
            if node.name == own_name:
                taken[network] = node.name
            elif not network.subnet_of(cluster):
                yield node, network, f"{network} is not in the cluster's range {cluster}"
            elif owner:
                yield node, network, f"{network} is {owner}'s already"
            elif own_addresses.intersection(node.addresses):
                yield node, network, f"it has this node's own address {', '.join(node.addresses)}"
            else:
                taken[network] = node.name
                yield node, network, ""


def _next_hop(node: NodePlace, existing: Sequence[Route]) -> str:
    """The first of the node's addresses that is on a connected network; empty if none is."""
    return next((address for address in node.addresses if _is_connected(address, existing)), "")


def _is_connected(address: str, existing: Sequence[Route]) -> bool:
    try:
        wanted = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    leading = [(network.prefixlen, r) for r in existing if wanted in (network := Network(r.destination))]
    if not leading:
        return False
    longest = max(length for length, _ in leading)
    return longest > 0 and any(not route.gateway for length, route in leading if length == longest)


def _unreachable(node: NodePlace, gateway: str) -> str:
    if gateway:
        return ""
    if not node.addresses:
        return "it has no internal address"
    return f"its address {', '.join(node.addresses)} is not on a network of this node"


def _conflict(destination: str, gateway: str, existing: Sequence[Route]) -> str:
    for route in existing:
        if route.destination == destination and route.protocol != ROUTE_PROTOCOL and route.gateway != gateway:
            where = f"via {route.gateway}" if route.gateway else "on a connected network"
            return f"somebody else has made a route to {destination}, {where} instead of {gateway}"
    return ""


def _same(route: Route, destination: str, gateway: str) -> bool:
    return (route.destination, route.gateway) == (destination, gateway)


def _is_ours(route: Route, cluster: Network) -> bool:
    return route.protocol == ROUTE_PROTOCOL and Network(route.destination).subnet_of(cluster)
