"""Which endpoints of a Service port may get traffic on this node: pure decisions.

Three wishes meet. Only endpoints that can answer: the ready ones, and while none is ready those that are terminating
but still serving, so that a rolling update does not refuse anybody (upstream: KEP-1669). The traffic policy Local:
this node's endpoints or none at all. And a preference, not a rule: an endpoint on the same node saves a hop, so while
this node has a ready one the others rest (upstream: KEP-3015, `trafficDistribution`).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.proxy.service_port import Endpoint, NodeNetwork, ServicePort, TrafficPolicy


class Choice(Struct, frozen=True):
    """Endpoints by audience, each sorted by address.

    `cluster` serves under the Cluster policy, `local` under the Local policy; `anywhere` says whether any node has an
    endpoint that can answer (then a Local port without local endpoints is silent, not refused: another node answers).
    """

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    anywhere: bool

    def under(self, policy: TrafficPolicy) -> tuple[Endpoint, ...]:
        """The endpoints that a traffic policy admits."""
        return self.local if policy is TrafficPolicy.LOCAL else self.cluster


def is_local(endpoint: Endpoint, node: NodeNetwork) -> bool:
    """Whether the endpoint is on this node; without a node name only the node's own addresses are."""
    return endpoint.node_name == node.name if endpoint.node_name else endpoint.ip in node.ips


def able(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The ready endpoints; if there is none, those that still serve while they terminate."""
    found = list(endpoints)
    return [e for e in found if e.ready] or [e for e in found if e.serving and e.terminating]


def choose(port: ServicePort, node: NodeNetwork) -> Choice:
    """Which endpoints of `port` get traffic that arrives on `node`."""
    everywhere = able(port.endpoints)
    own = [e for e in everywhere if is_local(e, node)]
    return Choice(
        cluster=_sorted(own if port.prefer_same_node and own else everywhere),
        local=_sorted(able(e for e in port.endpoints if is_local(e, node))),
        anywhere=bool(everywhere),
    )


def _sorted(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    # an address may come in two slices while it moves from one to the other
    return tuple({(e.ip, e.port): e for e in sorted(endpoints)}.values())
