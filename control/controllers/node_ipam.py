"""Gives each node its part of the pod network (Kubernetes: node-ipam-controller, RangeAllocator).

Watches Nodes. `spec.podCIDR` is set once and never changed; the range is free again when the node is deleted. One
worker hands ranges out and remembers those that the cache does not show yet, so no two nodes ever get the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

from msgspec import Struct

from control.controllers.controller import Context, Controller
from kube import objects
from kube.events import WARNING
from kube.informer import DELETED, Delta
from kube.models import core_v1
from kube.status import ApiError, is_not_found

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV4_MASK = 24
IPV6_MASK = 64
RETRY_SECONDS = 60.0


class Range(Struct, frozen=True):
    """A cluster-wide pod range and the prefix length of each node's part of it."""

    network: Network
    mask: int


def parse_ranges(pod_cidr: str) -> tuple[Range, ...]:
    """Ranges of a pod CIDR setting: one, or two families separated by a comma. ValueError if malformed."""
    found = [ipaddress.ip_network(part.strip()) for part in pod_cidr.split(",") if part.strip()]
    return tuple(Range(n, max(n.prefixlen, IPV4_MASK if n.version == 4 else IPV6_MASK)) for n in found)


def lowest_free(pool: Range, taken: Iterable[Network], *, avoid: Collection[Network] = ()) -> Network | None:
    """The lowest part of a range that overlaps with nothing taken; None if it is used up.

    `avoid` are parts to leave alone while there are others (given back a moment ago: old routes may still lead there).
    """
    size = 2 ** (pool.network.max_prefixlen - pool.mask)
    first = int(pool.network.network_address)
    count = 2 ** (pool.mask - pool.network.prefixlen)
    blocked: set[int] = set()
    for network in taken:
        if network.version == pool.network.version and network.overlaps(pool.network):
            low = max(0, (int(network.network_address) - first) // size)
            high = min(count - 1, (int(network.broadcast_address) - first) // size)
            blocked.update(range(low, high + 1))
    avoided = {(int(n.network_address) - first) // size for n in avoid if n.overlaps(pool.network)}
    for skip in (blocked | avoided, blocked):
        for index in range(count):
            if index not in skip:
                address = type(pool.network.network_address)(first + index * size)
                return ipaddress.ip_network(f"{address}/{pool.mask}")
    return None


def pod_cidrs(node: core_v1.Node) -> list[Network]:
    """The parts that a node has."""
    if node.spec is None:
        return []
    return [ipaddress.ip_network(c) for c in node.spec.podCIDRs or ([node.spec.podCIDR] if node.spec.podCIDR else [])]


def plan(
    ranges: Sequence[Range], taken: Collection[Network], *, avoid: Collection[Network] = ()
) -> list[Network] | None:
    """The parts for a new node, one of each range; None if a range is used up."""
    parts = [lowest_free(pool, taken, avoid=avoid) for pool in ranges]
    return None if any(part is None for part in parts) else [part for part in parts if part is not None]


class NodeIPAMController(Controller):
    """Hands out parts of the pod ranges."""

    name: ClassVar[str] = "node-ipam-controller"
    workers: ClassVar[int] = 1

    def __init__(self, context: Context, *, ranges: Sequence[Range]) -> None:
        super().__init__(context)
        self._ranges = ranges
        self._reserved: dict[str, list[Network]] = {}
        self._released: list[Network] = []
        self._waiting: set[str] = set()
        self._nodes = self.watch(core_v1.Node, self._on_node)

    async def start(self) -> None:
        self._reserved.clear()
        self._waiting.clear()

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        name = objects.name(delta.object)
        if delta.type == DELETED:
            self._reserved.pop(name, None)
            # the last few only: there is no hurry to use them again
            self._released = [*self._released, *pod_cidrs(delta.object)][-64:]
            for waiting in self._waiting:
                self.queue.add(waiting)
        if not pod_cidrs(delta.object):
            self.queue.add(name)

    async def reconcile(self, key: str) -> float | None:
        node = self._nodes.get(key)
        self._waiting.discard(key)
        if node is None or pod_cidrs(node) or objects.is_deleting(node):
            self._reserved.pop(key, None)
            return None
        parts = self._reserved.get(key)
        if parts is None:
            others = [n for other in self._nodes.list() for n in pod_cidrs(other)]
            reserved = [n for found in self._reserved.values() for n in found]
            parts = plan(self._ranges, [*others, *reserved], avoid=self._released)
        if parts is None:
            message = f"Node {key} status is now: CIDRNotAvailable"
            self.recorder.event(node, WARNING, "CIDRNotAvailable", message)
            self._waiting.add(key)
            return RETRY_SECONDS
        self._reserved[key] = parts
        text = [str(part) for part in parts]
        # The resource version is a precondition: if somebody gave the node a range meanwhile, theirs stays.
        patch = {
            "metadata": {"uid": objects.uid(node), "resourceVersion": objects.resource_version(node)},
            "spec": {"podCIDR": text[0], "podCIDRs": text},
        }
        try:
            await self.client.patch(core_v1.Node, key, patch)
        except ApiError as error:
            if not is_not_found(error):
                raise
            self._reserved.pop(key, None)
        return None
