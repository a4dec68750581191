"""UDP flows that conntrack still sends to endpoints that are gone.

The kernel chooses an endpoint with the first packet of a flow and remembers it. TCP notices when its peer is gone; a
UDP client that keeps its socket (a resolver, say) would talk to nobody as long as it talks. So when a UDP port's
endpoints change, the flows that lead anywhere else are forgotten, and the next packet chooses anew. The same goes for
flows that began before there was a Service at their address.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from agent.proxy.service_port import NodeNetwork, Protocol, ServicePort
from agent.proxy.traffic_policy import choose
from kube.errors import KtoolError

log = logging.getLogger(__name__)


class Flow(Struct, frozen=True):
    """A connection that conntrack knows: whereto the client sent, and who answers in truth. `entry` is conntrack's."""

    destination: str
    port: int
    endpoint: str
    endpoint_port: int
    entry: Any = None


class UdpChange(Struct, frozen=True):
    """A UDP port whose endpoints changed: its ways in, and the `ip, port` of those that may answer now."""

    addresses: frozenset[str]
    port: int
    node_port: int
    endpoints: frozenset[tuple[str, int]]


def udp_changes(
    before: Mapping[str, ServicePort], after: Mapping[str, ServicePort], node: NodeNetwork
) -> list[UdpChange]:
    """The UDP ports (by their keys) that are new, gone or have other endpoints or addresses."""
    changes = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        some = [port for port in (old, new) if port is not None and port.protocol is Protocol.UDP]
        for port in some:
            addresses = {*port.cluster_ips, *port.external_ips, *port.load_balancer_ips}
            endpoints: frozenset[tuple[str, int]] = frozenset()
            if new is not None and new.protocol is Protocol.UDP:
                choice = choose(new, node)
                endpoints = frozenset((e.ip, e.port) for e in (*choice.cluster, *choice.local))
            changes.append(UdpChange(frozenset(addresses), port.port, port.node_port, endpoints))
    return changes


def stale(flows: Iterable[Flow], changes: Iterable[UdpChange], node: NodeNetwork) -> list[Flow]:
    """The flows into changed ports that lead to something else than their endpoints."""
    known = list(changes)
    return [flow for flow in flows if any(_is_stale(flow, change, node) for change in known)]


def _is_stale(flow: Flow, change: UdpChange, node: NodeNetwork) -> bool:
    if (flow.endpoint, flow.endpoint_port) in change.endpoints:
        return False
    if flow.port == change.port and flow.destination in change.addresses:
        return True
    # a node port is one on any address of the node, not on the addresses of others that the node forwards to
    translated = (flow.endpoint, flow.endpoint_port) != (flow.destination, flow.port)
    return bool(change.node_port) and flow.port == change.node_port and (translated or flow.destination in node.ips)


def forget(changes: Iterable[UdpChange], node: NodeNetwork) -> int:
    """Delete the stale UDP flows of this network namespace; how many there were. KtoolError if the kernel refuses."""
    known = list(changes)
    if not known:
        return 0
    import pyroute2  # only now: most nodes' Services change rarely
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    gone: list[Flow] = []
    try:
        with pyroute2.Conntrack() as conntrack:
            udp = NFCTAttrTuple(proto=socket.IPPROTO_UDP)
            gone = stale([_flow(entry) for entry in conntrack.dump_entries(tuple_orig=udp)], known, node)
            for flow in gone:
                _delete(conntrack, flow)
    except (NetlinkError, OSError) as error:
        raise KtoolError("cannot forget UDP flows to endpoints that are gone", found=str(error)) from error
    if gone:
        log.info("forgot %d UDP flows to endpoints that are gone", len(gone))
    return len(gone)


def _delete(conntrack: Any, flow: Flow) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        conntrack.delete(flow.entry)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it has expired meanwhile
            raise


def _flow(entry: Any) -> Flow:
    original, reply = entry.tuple_orig, entry.tuple_reply
    return Flow(original.daddr, original.dport, reply.saddr, reply.sport, entry)
