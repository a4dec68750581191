"""What nftables is told: golden transcripts (golden/*.txt) of typical Services and of their changes.

A transcript has the Service ports in words, then the commands that lead there from the state before. To write them
anew after an intended change: KTOOL_GOLDEN=write pytest tests/agent/proxy/test_service_rules.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from msgspec.structs import replace

from agent.proxy.rules import FRONTENDS, HAIRPIN, REFUSED_SERVICES, Planner, base, plan
from agent.proxy.ruleset import difference, replacement
from agent.proxy.service_port import Endpoint, Protocol, ServicePort, TrafficPolicy
from agent.proxy.traffic_policy import choose
from tests.agent.proxy.samples import HERE, HERE_TOO, NODE, THERE, THERE_TOO, ending, web
from tests.agent.proxy.strategies import clusters

GOLDEN = Path(__file__).parent / "golden"
LOCAL = TrafficPolicy.LOCAL
DNS = ServicePort("kube-system", "dns", "", Protocol.UDP, 53, cluster_ips=("10.96.0.2",))

# each a history: states one after the other
HISTORIES: dict[str, list[list[ServicePort]]] = {
    "base": [[]],
    "cluster-ip": [
        [web(THERE, THERE_TOO)],
        [web(THERE, THERE_TOO, Endpoint("10.244.2.23", 8080, "two"))],
        [web(HERE, THERE, THERE_TOO)],
        [web(ending(THERE))],
        [web()],
        [],
    ],
    "node-port": [[web(HERE, HERE_TOO, node_port=30080)], [web(node_port=30080)], []],
    "local-policies": [
        [web(HERE, THERE, node_port=30080, load_balancer_ips=("203.0.113.5",), external_policy=LOCAL)],
        [web(THERE, node_port=30080, load_balancer_ips=("203.0.113.5",), external_policy=LOCAL)],
        [web(THERE, internal_policy=LOCAL)],
    ],
    "affinity": [
        [web(HERE, HERE_TOO, affinity_seconds=10_800)],
        [web(HERE, affinity_seconds=10_800)],
        [web(HERE)],
    ],
    "udp": [[replace(DNS, endpoints=(THERE,))], [DNS]],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_transcript(name: str) -> None:
    planner = Planner(NODE)
    state = base(NODE)
    text = "\n".join(replacement(state)) + "\n" if name == "base" else ""
    for services in HISTORIES[name] if name != "base" else []:
        wanted = planner.plan(services)
        text += "".join(f"# {_words(port)}\n" for port in services) or "# nothing\n"
        text += "".join(f"{line}\n" for line in difference(state, wanted)) + "\n"
        state = wanted
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("KTOOL_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


def _words(port: ServicePort) -> str:
    words = [port.key, *port.cluster_ips, *port.load_balancer_ips, f"{port.port}/{port.protocol}"]
    words += [f"node port {port.node_port}"] if port.node_port else []
    words += [f"affinity {port.affinity_seconds} s"] if port.affinity_seconds else []
    words += ["internal Local"] if port.internal_policy is LOCAL else []
    words += ["external Local"] if port.external_policy is LOCAL else []
    ends = [f"{e.ip}:{e.port} on {e.node_name}{' (terminating)' if e.terminating else ''}" for e in port.endpoints]
    return f"{' '.join(words)} → {', '.join(ends) or 'no endpoints'}"


@given(clusters())
def test_every_verdict_finds_its_endpoints(services: list[ServicePort]) -> None:
    """A chain that draws a number below N finds an endpoint for each number: otherwise connections would hang."""
    ruleset = plan(services, NODE)
    for frontend in FRONTENDS:
        for key, verdict in ruleset.elements.get(frontend.catches, {}).items():
            assert verdict == "drop" or verdict.removeprefix("goto ") in ruleset.chains
            if verdict.startswith(f"goto {frontend.name}-"):
                protocol = Protocol.UDP if "udp" in key else Protocol.TCP
                endpoints = ruleset.elements[frontend.endpoints(protocol)]
                place, count = key.replace(f"{protocol} . ", ""), int(verdict.rpartition("-")[2])
                assert all(f"{place} . {index}" in endpoints for index in range(count))
                assert f"{place} . {count}" not in endpoints


@given(clusters())
def test_a_service_is_caught_or_refused_never_both(services: list[ServicePort]) -> None:
    ruleset = plan(services, NODE)
    caught, refused = ruleset.elements.get("services", {}), ruleset.elements.get(REFUSED_SERVICES, {})
    for port in services:
        key = f"{port.cluster_ips[0]} . {port.protocol} . 80"
        assert (key in caught) is choose(port, NODE).anywhere
        assert (key in refused) is not choose(port, NODE).anywhere


def test_hairpin_is_for_pods_of_this_node_only() -> None:
    on_host = Endpoint("192.0.2.1", 80, "one")
    ruleset = plan([web(HERE, THERE, on_host, prefer_same_node=False)], NODE)
    assert ruleset.elements[HAIRPIN] == {"10.244.1.11 . 10.244.1.11": ""}


def test_without_bridge_netfilter_everything_is_masqueraded() -> None:
    ruleset = plan([web(HERE)], replace(NODE, masquerade_all=True))
    assert ruleset.chains["service-tcp-1"].rules[0] == "ct mark set ct mark or 0x4000"


def test_odd_names_cannot_become_nft_syntax() -> None:
    ruleset = plan([web(HERE, port_name="x } drop", affinity_seconds=5)], NODE)
    names = [*ruleset.chains, *ruleset.sets]
    assert not [name for name in names if not name.replace("/", "").replace("-", "").replace(".", "").isalnum()]
