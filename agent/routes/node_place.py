"""Where the pods of a node are: the little of a Node that routes need, decoded without the rest.

A Node is large (its images alone take kilobytes) and changes often (its status, its usage). Every agent of a cluster
hears of every change of every Node, so what does not matter here is skipped while it is read, and neither kept nor
compared.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from kube import kinds

INTERNAL_IP = "InternalIP"


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """The part of ObjectMeta that an informer needs."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""


class Address(msgspec.Struct, frozen=True, gc=False):
    """Kubernetes: NodeAddress."""

    type: str = ""
    address: str = ""


class Spec(msgspec.Struct, frozen=True):
    """The part of NodeSpec that is about pods' addresses."""

    podCIDR: str = ""
    podCIDRs: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """The part of NodeStatus that is about the node's addresses."""

    addresses: tuple[Address, ...] = ()


class PlacedNode(msgspec.Struct, frozen=True):
    """A Node, as far as it says where its pods are."""

    metadata: Metadata
    spec: Spec = Spec()
    status: Status = Status()


kinds.register(PlacedNode, kinds.known("", "v1", "nodes"))


class NodePlace(Struct, frozen=True):
    """A node's pods (`pod_cidrs`, networks as text) and where they are reached (`addresses`, its internal ones)."""

    name: str
    pod_cidrs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def place_of(node: PlacedNode) -> NodePlace:
    """What a Node says."""
    cidrs = node.spec.podCIDRs or ((node.spec.podCIDR,) if node.spec.podCIDR else ())
    internal = tuple(address.address for address in node.status.addresses if address.type == INTERNAL_IP)
    return NodePlace(node.metadata.name, cidrs, internal)
