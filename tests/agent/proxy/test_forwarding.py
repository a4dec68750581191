"""Service traffic through the real kernel: a node, pods and another machine in namespaces of their own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.proxy import conntrack
from agent.proxy.host import HostNetwork
from agent.proxy.host_ports import service_ports
from agent.proxy.nft import NftTable
from agent.proxy.rules import Planner
from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy
from tests.agent.proxy import lab as labs
from tests.agent.proxy.samples import NODE, web
from tests.agent.proxy.test_host_ports import pod, status

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab"),
]

A, B, C = (Endpoint(f"10.244.1.{11 + n}", 8080, "one") for n in range(3))
FAR = Endpoint("10.244.2.21", 8080, "two")
VIP = "10.96.0.10"
QUICK = 1.0


class Node:
    """The lab with a table and host settings on its node."""

    def __init__(self, lab: labs.Lab, record: Path) -> None:
        self.lab = lab
        self.table = NftTable()
        self.host = HostNetwork(NODE, record=record)
        self._planner = Planner(NODE)

    def serve(self, *ports: ServicePort) -> None:
        with self.lab.node.inside():
            self.table.sync(self._planner.plan(ports))

    def masquerade_all(self) -> None:
        self._planner = Planner(replace(NODE, masquerade_all=True))


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    with ExitStack() as stack:
        yield labs.Lab(stack)


@pytest.fixture
def node(lab: labs.Lab, tmp_path: Path) -> Iterator[Node]:
    made = Node(lab, tmp_path / "host.json")
    with lab.node.inside():
        made.host.prepare()
    try:
        made.serve()
        with lab.node.inside():
            made.host.allow_localhost()
        yield made
    finally:
        with lab.node.inside():
            made.host.remove()
            made.table.remove()
            made.table.close()
        lab.node.run("conntrack", "-F")


def test_pods_reach_all_endpoints_evenly_and_keep_their_address(node: Node) -> None:
    node.serve(web(A, B, C))
    a, _, c = node.lab.pods
    found = c.count(VIP, 80, 300)
    assert found.keys() == {"a", "b", "c"}
    # 100 each would be exact; five standard deviations are 41
    assert all(59 <= times <= 141 for times in found.values()), found
    node.serve(web(B))
    assert a.ask(VIP, 80) == "b 10.244.1.11"


def test_a_pod_reaches_itself(node: Node) -> None:
    node.serve(web(A))
    assert node.lab.pods[0].ask(VIP, 80) == "a 10.244.1.1"


def test_the_node_reaches_a_service(node: Node) -> None:
    node.serve(web(A, node_port=30080))
    assert node.lab.node.ask(VIP, 80) == "a 10.244.1.1"
    assert node.lab.node.ask("192.0.2.1", 30080) == "a 10.244.1.1"


def test_prefers_endpoints_on_the_same_node(node: Node) -> None:
    b = node.lab.pods[1]
    node.serve(web(A, FAR))
    assert b.count(VIP, 80, 20) == {"a": 20}
    node.serve(web(A, FAR, prefer_same_node=False))
    assert b.count(VIP, 80, 60).keys() == {"a", "far"}
    node.serve(web(replace(A, ready=False), FAR))
    assert b.ask(VIP, 80) == "far 10.244.1.12"


def test_node_port_from_another_machine(node: Node) -> None:
    node.serve(web(A, B, node_port=30080))
    assert node.lab.far.count("192.0.2.1", 30080, 40).keys() == {"a", "b"}
    assert node.lab.far.ask("192.0.2.1", 30080).split()[1] == "10.244.1.1"
    # forwarded on to another node, the answer comes back this way
    node.serve(web(FAR, node_port=30080))
    assert node.lab.pods[0].ask("192.0.2.1", 30080) == "far 10.244.1.11"
    assert node.lab.far.ask("192.0.2.1", 30080) == "far 192.0.2.1"


def test_host_port(node: Node) -> None:
    """The pod sees its client, from wherever it is asked; a program that holds the port gets nothing."""
    with ExitStack() as stack:
        node.lab.node.answerer(stack, "docker-proxy", port=80)
        assert node.lab.far.ask("192.0.2.1", 80) == "docker-proxy 192.0.2.2"
        node.serve(
            *(one for name in ("TCP", "UDP") for one in service_ports(pod(hostPort=80, protocol=name), status(), "one"))
        )
        assert node.lab.far.ask("192.0.2.1", 80) == node.lab.far.ask("192.0.2.1", 80, udp=True) == "a 192.0.2.2"
        assert node.lab.pods[1].ask("192.0.2.1", 80) == "a 10.244.1.12"
        assert node.lab.pods[0].ask("192.0.2.1", 80) == "a 10.244.1.1"  # itself
        assert node.lab.node.ask("127.0.0.1", 80) == "a 10.244.1.1"


def test_node_port_on_localhost(node: Node) -> None:
    node.serve(web(A, node_port=30080))
    assert node.lab.node.ask("127.0.0.1", 30080) == "a 10.244.1.1"
    assert node.lab.node.count("127.0.0.1", 30080, 20) == {"a": 20}


def test_pods_cannot_reach_what_listens_on_the_nodes_loopback(node: Node) -> None:
    """CVE-2020-8558: `route_localnet` without a guard opens the node's loopback to its pods."""
    attacker = node.lab.pods[2]
    with ExitStack() as stack:
        node.lab.node.answerer(stack, "private", "127.0.0.1", 9999)
        attacker.sysctl("net/ipv4/conf/all/route_localnet", "1")
        attacker.ip("addr del 127.0.0.1/8 dev lo", "route add 127.0.0.1/32 via 10.244.1.1 src 10.244.1.13")
        stack.callback(attacker.ip, "route del 127.0.0.1/32", "addr add 127.0.0.1/8 dev lo")
        with pytest.raises(TimeoutError):
            attacker.ask("127.0.0.1", 9999, timeout=0.5)
        # the attack is real: without the table it works
        with node.lab.node.inside():
            node.table.remove()
        assert attacker.ask("127.0.0.1", 9999).startswith("private")


def test_external_traffic_policy_local(node: Node) -> None:
    far, b = node.lab.far, node.lab.pods[1]
    port = web(A, FAR, node_port=30080, load_balancer_ips=("203.0.113.5",), external_policy=TrafficPolicy.LOCAL)
    node.serve(port)
    assert far.ask("192.0.2.1", 30080) == "a 192.0.2.2"
    assert far.ask("203.0.113.5", 80) == "a 192.0.2.2"
    # no endpoint here: strangers get no answer (another node has one), pods are served from everywhere
    node.serve(replace(port, endpoints=(FAR,)))
    with pytest.raises(TimeoutError):
        far.ask("192.0.2.1", 30080, timeout=0.3)
    assert b.ask("203.0.113.5", 80) == "far 10.244.1.12"


def test_affinity_sticks_and_survives_a_replacement_of_the_table(node: Node) -> None:
    b, c = node.lab.pods[1:]
    port = web(A, B, C, affinity_seconds=600)
    node.serve(port)
    (chosen,) = b.count(VIP, 80, 30)
    assert len(c.count(VIP, 80, 10)) == 1
    node.table.close()
    node.table = NftTable()  # a new process, which knows nothing
    node.serve(port)
    assert b.count(VIP, 80, 30) == {chosen: 30}
    left = tuple(e for e, name in zip((A, B, C), "abc", strict=True) if name != chosen)
    node.serve(replace(port, endpoints=left))
    (other,) = b.count(VIP, 80, 30)
    assert other != chosen


@pytest.mark.parametrize("udp", [False, True])
def test_without_endpoints_refused_at_once(node: Node, udp: bool) -> None:
    protocol = Protocol.UDP if udp else Protocol.TCP
    node.serve(web(node_port=30080, protocol=protocol))
    places: list[tuple[Any, str, int]] = [
        (node.lab.pods[0], VIP, 80),
        (node.lab.node, VIP, 80),
        (node.lab.far, VIP, 80),
        (node.lab.far, "192.0.2.1", 30080),
        # nobody has this address, and this port is nobody's
        (node.lab.pods[0], "10.96.77.77", 80),
        (node.lab.node, VIP, 81),
        (node.lab.node, "192.0.2.1", 30080),
    ]
    for where, ip, port in places:

        def seconds(where: Any = where, ip: str = ip, port: int = port) -> float:
            start = time.monotonic()
            # what the node itself sends over UDP is refused to the sender's face: EPERM from send()
            with pytest.raises((ConnectionRefusedError, PermissionError)):
                where.ask(ip, port, udp=udp)
            return time.monotonic() - start

        # a busy machine may be late now and then; what waits for TCP to ask again is so every time
        assert any(seconds() < QUICK for _ in range(3))


def test_udp_flows_move_on_when_their_endpoint_goes(node: Node) -> None:
    before, after = web(A, protocol=Protocol.UDP), web(B, protocol=Protocol.UDP)
    with node.lab.pods[2].inside(), socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((VIP, 80))
        node.serve(before)
        client.send(b"?")
        assert client.recv(100) == b"a 10.244.1.13"
        node.serve(after)
        client.send(b"?")
        assert client.recv(100) == b"a 10.244.1.13"  # conntrack remembers
        changes = conntrack.udp_changes({before.key: before}, {after.key: after}, NODE)
        with node.lab.node.inside():
            assert conntrack.forget(changes, NODE) == 1
            assert conntrack.forget(changes, NODE) == 0
        client.send(b"?")
        assert client.recv(100) == b"b 10.244.1.13"


def test_tcp_and_udp_share_an_address_and_port(node: Node) -> None:
    node.serve(web(A), web(B, protocol=Protocol.UDP, port_name="udp"))
    c = node.lab.pods[2]
    assert c.ask(VIP, 80) == "a 10.244.1.13"
    assert c.ask(VIP, 80, udp=True) == "b 10.244.1.13"


def test_a_change_leaves_others_and_open_connections_alone(node: Node) -> None:
    other = web(B, name="other", cluster_ips=("10.96.0.11",))
    node.serve(web(A), other)
    with ExitStack() as stack:
        with node.lab.pods[2].inside():
            client = stack.enter_context(socket.create_connection((VIP, 80), 3))
        node.serve(web(C), other)
        assert client.recv(100) == b"a 10.244.1.13"
        assert node.lab.pods[2].ask("10.96.0.11", 80) == "b 10.244.1.13"
        assert node.lab.pods[1].ask(VIP, 80) == "c 10.244.1.12"


def test_docker_forward_policy_lets_services_through(node: Node) -> None:
    inside = node.lab.node
    port = web(A, node_port=30080)
    node.serve(port)
    inside.run("iptables", "-N", "DOCKER-USER")
    inside.run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
    inside.run("iptables", "-P", "FORWARD", "DROP")
    try:
        before = inside.run("iptables", "-S")
        with pytest.raises(TimeoutError):
            node.lab.far.ask("192.0.2.1", 30080, timeout=0.3)
        with inside.inside():
            node.host.open_firewall()
            node.host.open_firewall()
        assert len(inside.run("iptables", "-S", "DOCKER-USER").splitlines()) == 1 + 3
        assert node.lab.far.ask("192.0.2.1", 30080) == "a 10.244.1.1"
        with inside.inside():
            node.host.remove()
        assert inside.run("iptables", "-S") == before
    finally:
        inside.run("iptables", "-P", "FORWARD", "ACCEPT")
        inside.run("iptables", "-F")
        inside.run("iptables", "-X")


def test_works_without_bridge_netfilter_by_hiding_the_client(node: Node) -> None:
    node.lab.node.sysctl("net/bridge/bridge-nf-call-iptables", "0")
    try:
        node.serve(web(A))
        with pytest.raises(OSError):
            node.lab.pods[1].ask(VIP, 80, timeout=0.5)
        node.masquerade_all()
        node.serve(web(A))
        assert node.lab.pods[1].ask(VIP, 80) == "a 10.244.1.1"
        assert node.lab.pods[0].ask(VIP, 80) == "a 10.244.1.1"
    finally:
        node.lab.node.sysctl("net/bridge/bridge-nf-call-iptables", "1")
