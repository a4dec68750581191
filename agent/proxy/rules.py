"""From Services to nftables: which rules and map elements make the node forward Service traffic. Pure.

The problem: a cluster has thousands of Services whose endpoints change all the time. A chain per endpoint (kube-proxy's
way) makes each change a walk over rules, and the kernel's work grows with every Service.

The answer: the rules are few and always the same; Services are only elements of maps, looked up by hash.

    services               address . protocol . port  → goto service-tcp-3  (how many endpoints)
    service-tcp-endpoints  address . port . index     → endpoint . port     (index 0, 1, 2)
    service-tcp-3          dnat to (address . port . random number below 3) looked up in service-tcp-endpoints

Chains `service-tcp-N` exist once for each number of endpoints, not for each Service. Replacing one endpoint is one
element deleted and one added; endpoints keep their index while they live, so nothing else moves. NodePorts have the
same pair of maps without the address. Traffic from outside under `externalTrafficPolicy: Local` looks into a pair of
its own first. Only session affinity takes chains for the Service: who went where is remembered in dynamic sets, one an
endpoint, filled by packets and emptied by time.

What would go wrong otherwise, rule by rule:

- postrouting masquerades connections whose answer would not come back through this node (their client is no pod, the
  endpoint may be on another node), and hairpins (a pod that reaches itself would see its own address as the peer).
  The decision is a bit of the connection's mark, not of the packet's, so that later packets carry it as well and
  Docker's FORWARD policy can be told to let exactly these through.
  It also masquerades pods that talk to what is outside of the cluster. The engine could do that, but it would not
  leave other nodes' pods out, and its rules come before ours whenever it starts.
- arriving, received and leaving refuse at once what has no endpoint; without them a client waits for a timeout, and a
  ClusterIP that nobody forwards leaves the machine by the default route.
- guard drops loopback addresses on the pod bridge. NodePorts answer on 127.0.0.1 only with `route_localnet` there, and
  with it a pod could otherwise talk to what listens on the node's loopback only (CVE-2020-8558). In `raw`, before any
  address is translated back, such a packet is never legitimate.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from agent.proxy.ruleset import EMPTY, Chain, Ruleset, merge
from agent.proxy.service_port import Endpoint, NodeNetwork, Protocol, ServicePort, TrafficPolicy
from agent.proxy.traffic_policy import Choice, choose, is_local

# The bit of a connection's mark (ct mark) that says "masquerade"; upstream uses the same bit of the packet's mark.
MASQUERADE_MARK = 0x4000

_MASQUERADE = f"ct mark set ct mark or {MASQUERADE_MARK:#x}"
_ADDRESS_KEY = "ip daddr . meta l4proto . th dport"
_PORT_KEY = "meta l4proto . th dport"
# what names a frontend within the endpoint maps of one protocol
_ADDRESS_PLACE = "ip daddr . {} dport"
_PORT_PLACE = "{} dport"
_ADDRESS_TYPE = "ipv4_addr . inet_proto . inet_service"
_PORT_TYPE = "inet_proto . inet_service"
# The random number's type has no name, so the types of these maps are told by expressions; the range given here does
# not limit `numgen random mod N`. Each protocol has maps of its own, because nft turns `tcp dport` in a type into a
# check that the packet is TCP (and nft 1.0.6 cannot use a map again whose type says `th dport`).
_INDEX_TYPE = "numgen random mod 65536"
# How many clients one endpoint remembers (Kubernetes sets no limit; the kernel wants one).
_STICKY_CLIENTS = 65_535

_PLAIN_KEY = re.compile(r"[a-z0-9][a-z0-9-]*(/[a-zA-Z0-9][a-zA-Z0-9-]*){2}")


class Frontend(Struct, frozen=True):
    """A way in: the map that catches it, the maps with its endpoints (by protocol), and whether strangers are
    masqueraded. Chains that pick an endpoint are named after it: `service-tcp-3`."""

    name: str
    catches: str
    by_address: bool
    masquerades: bool = True

    def endpoints(self, protocol: Protocol) -> str:
        """The name of the map with the endpoints: place . index → endpoint . port."""
        return f"{self.name}-{protocol}-endpoints"

    def place(self, protocol: Protocol) -> str:
        """How a packet is looked up in that map."""
        return (_ADDRESS_PLACE if self.by_address else _PORT_PLACE).format(protocol)


SERVICE = Frontend("service", "services", by_address=True)
NODE_PORT = Frontend("node-port", "node-ports", by_address=False)
# from outside the cluster, under externalTrafficPolicy: Local; the client's address stays
LOCAL_SERVICE = Frontend("local-service", "local-services", by_address=True, masquerades=False)
LOCAL_NODE_PORT = Frontend("local-node-port", "local-node-ports", by_address=False, masquerades=False)
FRONTENDS = (SERVICE, NODE_PORT, LOCAL_SERVICE, LOCAL_NODE_PORT)

HAIRPIN = "hairpin"
REFUSED_SERVICES = "refused-services"
REFUSED_NODE_PORTS = "refused-node-ports"


def plan(services: Iterable[ServicePort], node: NodeNetwork) -> Ruleset:
    """The whole table for these Service ports on this node."""
    return Planner(node).plan(services)


class Planner:
    """`plan` with a memory: Service ports that did not change are not planned again, endpoints keep their index.

    The result depends on the past only in which endpoint has which index.
    """

    def __init__(self, node: NodeNetwork) -> None:
        self._node = node
        self._base = base(node)
        self._parts: dict[str, tuple[ServicePort, Ruleset]] = {}

    def plan(self, services: Iterable[ServicePort]) -> Ruleset:
        """The whole table for these Service ports; of two with the same key the later one counts."""
        parts: dict[str, tuple[ServicePort, Ruleset]] = {}
        for port in services:
            before, part = self._parts.get(port.key, (None, EMPTY))
            if before is not port and before != port:
                part = service_rules(port, self._node, previous=part)
            parts[port.key] = (port, part)
        # in the order of their keys, so that a clash of two Services has the same winner on every node
        self._parts = dict(sorted(parts.items()))
        return merge([self._base, *(part for _, part in self._parts.values())])


def base(node: NodeNetwork) -> Ruleset:
    """The part of the table that is always there."""
    sets = {
        HAIRPIN: "set { type ipv4_addr . ipv4_addr; }",
        REFUSED_SERVICES: f"set {{ type {_ADDRESS_TYPE}; }}",
        REFUSED_NODE_PORTS: f"set {{ type {_PORT_TYPE}; }}",
    }
    for frontend in FRONTENDS:
        sets[frontend.catches] = f"map {{ type {_ADDRESS_TYPE if frontend.by_address else _PORT_TYPE} : verdict; }}"
    refuse_services = (
        f"ct state new {_ADDRESS_KEY} @{REFUSED_SERVICES} goto refuse",
        f"ct state new ip daddr {node.service_cidr} goto refuse",
    )
    chains = {
        "prerouting": Chain(
            (f"ip saddr != {node.cluster_cidr} jump outside", "goto inside"),
            "type nat hook prerouting priority dstnat;",
        ),
        "output": Chain(("goto inside",), "type nat hook output priority -100;"),
        "outside": Chain(
            (
                f"{_ADDRESS_KEY} vmap @{LOCAL_SERVICE.catches}",
                f"fib daddr type local {_PORT_KEY} vmap @{LOCAL_NODE_PORT.catches}",
            )
        ),
        "inside": Chain(
            (
                f"{_ADDRESS_KEY} vmap @{SERVICE.catches}",
                f"fib daddr type local {_PORT_KEY} vmap @{NODE_PORT.catches}",
            )
        ),
        "postrouting": Chain(
            (
                f"ct mark and {MASQUERADE_MARK:#x} == {MASQUERADE_MARK:#x} masquerade fully-random",
                f"ct status dnat ip saddr . ip daddr @{HAIRPIN} masquerade fully-random",
                *_leaving_the_cluster(node),
            ),
            "type nat hook postrouting priority srcnat;",
        ),
        # before routing: the redirect that the kernel would send a pod first uses up its allowance of ICMP errors
        "arriving": Chain(refuse_services, "type filter hook prerouting priority dstnat + 10;"),
        "received": Chain(
            (f"ct state new {_PORT_KEY} @{REFUSED_NODE_PORTS} goto refuse",),
            "type filter hook input priority filter - 10;",
        ),
        "leaving": Chain(refuse_services, "type filter hook output priority filter - 10;"),
        "refuse": Chain(("meta l4proto tcp reject with tcp reset", "reject with icmp type port-unreachable")),
        "guard": Chain(
            (
                f'iifname "{node.bridge}" ip daddr 127.0.0.0/8 drop',
                f'iifname "{node.bridge}" ip saddr 127.0.0.0/8 drop',
            ),
            "type filter hook prerouting priority raw;",
        ),
    }
    return Ruleset(sets=sets, chains=chains)


def _leaving_the_cluster(node: NodeNetwork) -> tuple[str, ...]:
    """Outside of the cluster nobody knows the way back to a pod; inside, everybody does, and sees who asks."""
    if not node.masquerade_pods:
        return ()
    inside = f"ip saddr {node.cluster_cidr} ip daddr != {node.cluster_cidr}"
    return (f'{inside} oifname != "{node.bridge}" oifname != "lo" masquerade fully-random',)


def service_rules(port: ServicePort, node: NodeNetwork, *, previous: Ruleset = EMPTY) -> Ruleset:
    """The part of the table that one Service port needs; endpoints found in `previous` keep their index."""
    choice = choose(port, node)
    part = _Part(port, node, previous)
    external = (*port.external_ips, *port.load_balancer_ips)

    for ip in port.cluster_ips:
        part.catch(SERVICE, part.at(ip), choice, port.internal_policy)
    for ip in external:
        part.catch(SERVICE, part.at(ip), choice, TrafficPolicy.CLUSTER)
    if port.node_port:
        part.catch(NODE_PORT, part.node_port, choice, TrafficPolicy.CLUSTER)

    # with no endpoint anywhere the lines above refuse, whoever asks
    if port.external_policy is TrafficPolicy.LOCAL and choice.anywhere:
        for ip in external:
            part.catch(LOCAL_SERVICE, part.at(ip), choice, TrafficPolicy.LOCAL)
        if port.node_port:
            part.catch(LOCAL_NODE_PORT, part.node_port, choice, TrafficPolicy.LOCAL)

    for endpoint in {*choice.cluster, *choice.local}:
        if is_local(endpoint, node) and endpoint.ip not in node.ips:
            part.add(HAIRPIN, f"{endpoint.ip} . {endpoint.ip}")
    return part.ruleset()


class _Part:
    """Collects what one Service port contributes to the table."""

    def __init__(self, port: ServicePort, node: NodeNetwork, previous: Ruleset) -> None:
        self._port = port
        self._node = node
        self._previous = previous
        self._sets: dict[str, str] = {}
        self._elements: dict[str, dict[str, str]] = {}
        self._chains: dict[str, Chain] = {}

    @property
    def node_port(self) -> str:
        """The key of the NodePort in maps that have no address."""
        return f"{self._port.protocol} . {self._port.node_port}"

    def at(self, ip: str) -> str:
        """The key of the port at an address."""
        return f"{ip} . {self._port.protocol} . {self._port.port}"

    def add(self, name: str, key: str, value: str = "") -> None:
        self._elements.setdefault(name, {})[key] = value

    def ruleset(self) -> Ruleset:
        return Ruleset(self._sets, self._elements, self._chains)

    def catch(self, frontend: Frontend, key: str, choice: Choice, policy: TrafficPolicy) -> None:
        """Send what matches `key` to the endpoints that the policy admits; without any, drop it in silence if another
        node can answer, refuse it otherwise."""
        endpoints = choice.under(policy)
        if not choice.anywhere:
            self.add(REFUSED_SERVICES if frontend is SERVICE else REFUSED_NODE_PORTS, key)
        elif not endpoints:
            self.add(frontend.catches, key, "drop")
        elif self._port.affinity_seconds:
            self.add(frontend.catches, key, f"goto {self._sticky(frontend, endpoints, policy)}")
        else:
            self.add(frontend.catches, key, f"goto {self._random(frontend, len(endpoints))}")
            place = key.replace(f"{self._port.protocol} . ", "")
            values = [f"{e.ip} . {e.port}" for e in endpoints]
            for index, value in enumerate(_keep_places(self._before(frontend, place), values)):
                self.add(frontend.endpoints(self._port.protocol), f"{place} . {index}", value)

    def _before(self, frontend: Frontend, place: str) -> list[str]:
        """The endpoints of the last plan, in their places."""
        elements: Mapping[str, str] = self._previous.elements.get(frontend.endpoints(self._port.protocol), {})
        found: list[str] = []
        while (value := elements.get(f"{place} . {len(found)}")) is not None:
            found.append(value)
        return found

    def _masquerade(self, frontend: Frontend) -> tuple[str, ...]:
        if self._node.masquerade_all:
            return (_MASQUERADE,)
        # pods and what shares the bridge's address are reached from every node: the answer finds its way
        return (f"ip saddr != {self._node.cluster_cidr} {_MASQUERADE}",) if frontend.masquerades else ()

    def _random(self, frontend: Frontend, count: int) -> str:
        """The chain that sends a connection to one of `count` endpoints, found by the frontend's place."""
        protocol = self._port.protocol
        name, endpoints, place = (
            f"{frontend.name}-{protocol}-{count}",
            frontend.endpoints(protocol),
            frontend.place(protocol),
        )
        self._sets[endpoints] = f"map {{ typeof {place} . {_INDEX_TYPE} : ip daddr . {protocol} dport; }}"
        self._chains[name] = Chain(
            (
                *self._masquerade(frontend),
                f"dnat ip to {place} . numgen random mod {count} map @{endpoints}",
            )
        )
        return name

    def _sticky(self, frontend: Frontend, endpoints: Sequence[Endpoint], policy: TrafficPolicy) -> str:
        """The chain that sends a client where it went last, else anywhere, and remembers it (ClientIP affinity)."""
        audience = policy.lower() if frontend.masquerades else "outside"
        name = f"affinity/{self._key()}/{audience}"
        targets = [self._remember(endpoint) for endpoint in endpoints]
        choices = ", ".join(f"{index} : goto {chain}" for index, (_, chain) in enumerate(targets))
        self._chains[name] = Chain(
            (
                *self._masquerade(frontend),
                *(f"ip saddr @{clients} goto {chain}" for clients, chain in targets),
                f"numgen random mod {len(targets)} vmap {{ {choices} }}",
            )
        )
        return name

    def _remember(self, endpoint: Endpoint) -> tuple[str, str]:
        """The set of an endpoint's clients and the chain that adds to it and goes there."""
        place = f"{self._key()}/{endpoint.ip}/{endpoint.port}"
        clients, chain = f"clients/{place}", f"endpoint/{place}"
        self._sets[clients] = f"set {{ type ipv4_addr; size {_STICKY_CLIENTS}; flags dynamic, timeout; }}"
        self._chains[chain] = Chain(
            (
                f"update @{clients} {{ ip saddr timeout {self._port.affinity_seconds}s }}",
                f"meta l4proto {self._port.protocol} dnat ip to {endpoint.ip}:{endpoint.port}",
            )
        )
        return clients, chain

    def _key(self) -> str:
        """The port's key as a part of nft's names, which know only some characters."""
        key = self._port.key
        return key if _PLAIN_KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()[:16]


def _keep_places(before: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """`wanted` in an order in which what was there before keeps its place, as far as the places go."""
    staying = set(wanted).intersection(before[: len(wanted)])
    places = [value if value in staying else None for value in before[: len(wanted)]]
    places += [None] * (len(wanted) - len(places))
    newcomers = iter([value for value in wanted if value not in staying])
    return [next(newcomers) if place is None else place for place in places]
