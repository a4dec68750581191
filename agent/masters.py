"""The masters that a node may turn to when its own fails: those that the Service `kubernetes` has as endpoints.

A node joins by one server, a load balancer's or a master's. Where that is a master, and it is lost, the others would
serve the node as well. They are noted in a file, for an agent that is started while its own master is away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.switch_transport import SwitchTransport
from kube import objects
from kube.files import write_atomic
from kube.informer import DELETED, Delta, InformerFactory
from kube.models import discovery_v1

FILE = "masters.json"
NAMESPACE, NAME = "default", "kubernetes"

log = logging.getLogger(__name__)


def noted(data_dir: Path) -> list[str]:
    """URLs of the masters as they were known last; none if that cannot be read."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError):
        return []


def servers(slice_: discovery_v1.EndpointSlice) -> list[str]:
    """URLs of the API servers that an EndpointSlice of the Service `kubernetes` names."""
    addresses = sorted(address for endpoint in slice_.endpoints for address in endpoint.addresses)
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [f"https://{host}:{port.port}" for port in slice_.ports or () for host in hosts]


def follow(factory: InformerFactory, transport: SwitchTransport, data_dir: Path, *, all_known: bool) -> None:
    """Offer the masters to the transport as they come and go, and note them.

    `all_known`: this agent keeps all EndpointSlices anyway. Others ask for the one: of hollow nodes there are hundreds.
    """
    known: Sequence[str] = noted(data_dir)

    def changed(delta: Delta[discovery_v1.EndpointSlice]) -> None:
        nonlocal known
        where = objects.namespace(delta.object), objects.name(delta.object)
        found = [] if delta.type == DELETED else servers(delta.object)
        # none at all is no news to act on: whoever told us lives
        if where != (NAMESPACE, NAME) or not found or found == known:
            return
        known = found
        transport.offer(found)
        try:
            write_atomic(data_dir / FILE, msgspec.json.encode(found))
        except OSError as error:
            log.warning("the masters cannot be noted: %s", error)

    namespace, selector = ("", "") if all_known else (NAMESPACE, f"metadata.name={NAME}")
    slices = factory.informer(discovery_v1.EndpointSlice, namespace=namespace, field_selector=selector)
    slices.add_handler(changed)
