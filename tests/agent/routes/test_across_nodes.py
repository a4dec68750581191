"""Two nodes with pods, and a client outside, on a network without uplink: what passes, and who is seen.

    pod a (10.244.1.11) ── ktool0 [one] eth0 192.0.2.1 ─┐
                                                        ├─ switch ── 192.0.2.9 [client]
    pod b (10.244.2.11) ── ktool0 [two] eth0 192.0.2.2 ─┘

Both nodes have a firewall like Docker's (FORWARD drops what it does not know) and the strictest reverse path filter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.proxy import proxy
from agent.proxy.host import HostNetwork
from agent.proxy.nft import NftTable
from agent.proxy.rules import plan as plan_rules
from agent.proxy.service_port import Endpoint, NodeNetwork, ServicePort
from agent.routes import kernel
from agent.routes.kernel import KernelRoutes
from agent.routes.node_place import NodePlace
from agent.routes.plan import plan as plan_routes
from tests.agent.proxy import lab as labs
from tests.agent.proxy.samples import web

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab"),
]

VIP = "10.96.0.10"
ON_TWO = Endpoint("10.244.2.11", 8080, "two")
ON_ONE = Endpoint("10.244.1.11", 8080, "one")
PLACES = [NodePlace(name, (f"10.244.{n}.0/24",), (f"192.0.2.{n}",)) for n, name in ((1, "one"), (2, "two"))]


class Node:
    """A machine with one pod, and the agent's network parts on it."""

    def __init__(self, stack: ExitStack, switch: labs.Namespace, number: int, name: str, record: Path) -> None:
        self.name, self.number, self.record = name, number, record
        self.space, self.pod = labs.Namespace(stack), labs.Namespace(stack)
        self.network = NodeNetwork(name, ips=(f"192.0.2.{number}",))
        plug(switch, self.space, f"port{number}", f"192.0.2.{number}/24")
        space = self.space
        space.ip("link add ktool0 type bridge", f"addr add 10.244.{number}.1/24 dev ktool0", "link set ktool0 up")
        self.pod.take_link(space, "eth0", peer="pod")
        space.ip("link set pod master ktool0", "link set pod up")
        self.pod.ip(
            f"addr add 10.244.{number}.11/24 dev eth0", "link set eth0 up", f"route add default via 10.244.{number}.1"
        )
        for interface in ("all", "eth0", "ktool0"):
            space.sysctl(f"net/ipv4/conf/{interface}/rp_filter", "1")
        space.run("iptables", "-N", "DOCKER-USER")
        space.run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
        space.run("iptables", "-P", "FORWARD", "DROP")
        self.pod.answerer(stack, f"pod-{name}")
        space.answerer(stack, f"node-{name}", port=9090)
        self.before = self.state()
        self.table = NftTable()

    def state(self) -> list[str]:
        """Everything that the agent's parts may change."""
        commands = ("ip route", "iptables-save -t filter", "nft list tables", "sysctl net.ipv4.ip_forward")
        found = [self.space.run(*command.split()) for command in commands]
        return ["\n".join(line for line in text.splitlines() if line[:1] not in "#:") for text in found]

    def start(self) -> None:
        """What the agent's proxy and routes do when they start."""
        with self.space.inside():
            host = HostNetwork(self.network, record=self.record)
            host.prepare()
            self.serve()
            host.allow_localhost()
            self.route()

    def route(self) -> None:
        """One turn of the routes role."""
        table = KernelRoutes()
        wanted = plan_routes(PLACES, self.name, table.read(), cluster_cidr=self.network.cluster_cidr)
        assert wanted.problems == ()
        assert table.apply(wanted) == []

    def serve(self, *ports: ServicePort) -> None:
        """Let the table have these Service ports."""
        with self.space.inside():
            self.table.sync(plan_rules(ports, self.network))

    def reset(self) -> None:
        """What `agent reset` does."""
        self.table.close()
        with self.space.inside():
            proxy.remove(self.network, record=self.record)
            kernel.remove(cluster_cidr=self.network.cluster_cidr)


class Lab:
    """Two nodes and a client."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.switch, self.client = labs.Namespace(stack), labs.Namespace(stack)
        self.switch.ip("link add lan type bridge", "link set lan up")
        # its own rules are none of the test's: a switch has no firewall
        self.switch.sysctl("net/bridge/bridge-nf-call-iptables", "0")
        plug(self.switch, self.client, "port9", "192.0.2.9/24")
        self.client.answerer(stack, "client")
        self.one, self.two = (Node(stack, self.switch, n, name, folder / name) for n, name in ((1, "one"), (2, "two")))

    def serve(self, *ports: ServicePort) -> None:
        """The same Services on both nodes."""
        self.one.serve(*ports)
        self.two.serve(*ports)


def plug(switch: labs.Namespace, space: labs.Namespace, port: str, address: str) -> None:
    """A cable from a machine's eth0 to the switch."""
    switch.take_link(space, port, peer="cable")
    switch.ip(f"link set {port} master lan", f"link set {port} up")
    space.ip("link set cable name eth0", f"addr add {address} dev eth0", "link set eth0 up")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as stack:
        made = Lab(stack, tmp_path_factory.mktemp("lab"))
        made.one.start()
        made.two.start()
        yield made
        for node in (made.one, made.two):
            node.reset()
            assert node.state() == node.before


def test_pods_see_each_other_as_they_are(lab: Lab) -> None:
    assert lab.one.pod.ask("10.244.2.11", 8080) == "pod-two 10.244.1.11"
    assert lab.two.pod.ask("10.244.1.11", 8080, udp=True) == "pod-one 10.244.2.11"


def test_nodes_and_pods_of_other_nodes(lab: Lab) -> None:
    assert lab.one.space.ask("10.244.2.11", 8080) == "pod-two 192.0.2.1"
    # the other node is not in the pods' range: there the pod is seen as its node
    assert lab.one.pod.ask("192.0.2.2", 9090) == "node-two 192.0.2.1"
    assert lab.one.pod.ask("192.0.2.1", 9090) == "node-one 10.244.1.11"


def test_outside_a_pod_is_its_node(lab: Lab) -> None:
    assert lab.one.pod.ask("192.0.2.9", 8080) == "client 192.0.2.1"
    assert lab.two.pod.ask("192.0.2.9", 8080, udp=True) == "client 192.0.2.2"


def test_a_service_whose_only_endpoint_is_on_another_node(lab: Lab) -> None:
    lab.serve(web(ON_TWO, node_port=30080))
    assert lab.one.pod.ask(VIP, 80) == "pod-two 10.244.1.11"
    assert lab.one.space.ask(VIP, 80) == "pod-two 10.244.1.1"
    assert lab.two.pod.ask(VIP, 80) == "pod-two 10.244.2.1"  # itself
    for node in ("192.0.2.1", "192.0.2.2"):
        assert lab.client.ask(node, 30080).startswith("pod-two ")
        assert lab.one.pod.ask(node, 30080).startswith("pod-two ")
    # over node one the answer must come back over node one
    assert lab.client.ask("192.0.2.1", 30080) == "pod-two 192.0.2.1"


def test_a_service_with_endpoints_on_both_nodes(lab: Lab) -> None:
    lab.serve(web(ON_ONE, ON_TWO, prefer_same_node=False))
    assert lab.one.pod.count(VIP, 80, 40).keys() == {"pod-one", "pod-two"}
    assert lab.one.space.count(VIP, 80, 40).keys() == {"pod-one", "pod-two"}


def test_a_service_that_is_a_process_on_another_node(lab: Lab) -> None:
    lab.serve(web(Endpoint("192.0.2.2", 9090, "two")))
    assert lab.one.pod.ask(VIP, 80) == "node-two 192.0.2.1"
    assert lab.two.pod.ask(VIP, 80) == "node-two 10.244.2.11"
    assert lab.two.space.ask(VIP, 80).startswith("node-two ")


def test_a_link_that_comes_up_again(lab: Lab) -> None:
    lab.one.space.ip("link set eth0 down", "link set eth0 up")
    with pytest.raises(OSError, match=r"unreachable|timed out|No route"):
        lab.one.pod.ask("10.244.2.11", 8080, timeout=1)
    with lab.one.space.inside():
        lab.one.route()
    assert lab.one.pod.ask("10.244.2.11", 8080) == "pod-two 10.244.1.11"
