"""Host settings in a namespace of their own: made, repeated, taken back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from agent import netlink_changes
from agent.proxy import proxy
from agent.proxy.host import BRIDGE_NETFILTER, IP_FORWARD, HostNetwork
from agent.proxy.nft import NftTable
from agent.proxy.rules import plan
from tests.agent.proxy import lab as labs
from tests.agent.proxy.samples import HERE, NODE, web

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab"),
]

UNREACHABLE = "unreachable 10.96.0.0/16 proto 107 metric 4096"
LOCALNET = "net/ipv4/conf/ktool0/route_localnet"
BRIDGE = ("link add ktool0 type bridge", "addr add 10.244.1.1/24 dev ktool0", "link set ktool0 up")


@pytest.fixture
def space() -> Iterator[labs.Namespace]:
    with ExitStack() as stack:
        made = labs.Namespace(stack)
        made.sysctl(IP_FORWARD, "0")
        made.sysctl(BRIDGE_NETFILTER, "0")
        stack.enter_context(made.inside())
        yield made


def _routes(space: labs.Namespace) -> list[str]:
    lines = space.run("ip", "route").splitlines()
    return sorted(line.strip() for line in lines if "10.96.0.0/16" in line)


def _state(space: labs.Namespace) -> list[str]:
    settings = [space.sysctl(name) for name in (IP_FORWARD, BRIDGE_NETFILTER, LOCALNET)]
    return [*settings, *(space.run(*c.split()) for c in ("ip route", "nft list ruleset", "iptables -S"))]


def test_everything_is_taken_back(space: labs.Namespace, tmp_path: Path) -> None:
    space.ip(*BRIDGE)
    space.run("iptables", "-N", "DOCKER-USER")
    space.run("iptables", "-P", "FORWARD", "DROP")
    before = _state(space)
    host, table = HostNetwork(NODE, record=tmp_path / "host.json"), NftTable()
    for _ in range(2):
        host.prepare()
        table.sync(plan([web(HERE)], NODE))
        host.allow_localhost()
    table.close()
    assert [space.sysctl(name) for name in (IP_FORWARD, BRIDGE_NETFILTER, LOCALNET)] == ["1", "1", "1"]
    proxy.remove(NODE, record=tmp_path / "host.json")
    assert _state(space) == before
    assert not [*tmp_path.iterdir()]
    proxy.remove(NODE, record=tmp_path / "host.json")
    assert _state(space) == before


def test_the_service_range_never_leaves_the_machine(space: labs.Namespace, tmp_path: Path) -> None:
    host = HostNetwork(NODE, record=tmp_path / "host.json")
    host.prepare()
    assert _routes(space) == [UNREACHABLE]
    space.ip("link add ktool0 type bridge")
    host.prepare()  # the bridge is down
    assert _routes(space) == [UNREACHABLE]
    space.ip("addr add 10.244.1.1/24 dev ktool0", "link set ktool0 up")
    host.connect_bridge()
    assert _routes(space) == ["10.96.0.0/16 dev ktool0 proto 107 scope link", UNREACHABLE]
    assert "dev ktool0 src 10.244.1.1" in space.run("ip", "route", "get", "10.96.0.1")
    space.ip("link del ktool0")
    assert _routes(space) == [UNREACHABLE]


def test_somebody_elses_route_stays(space: labs.Namespace, tmp_path: Path) -> None:
    space.ip(*BRIDGE, "route add 10.97.0.0/16 dev ktool0 proto 107")
    host = HostNetwork(NODE, record=tmp_path / "host.json")
    host.prepare()
    host.remove()
    assert "10.97.0.0/16" in space.run("ip", "route")
    assert _routes(space) == []


def test_bridge_ports_get_hairpin_mode(space: labs.Namespace, tmp_path: Path) -> None:
    space.ip(*BRIDGE, "link add port type veth peer name cable", "link set port master ktool0 up")
    HostNetwork(NODE, record=tmp_path / "host.json").connect_bridge()
    assert "hairpin on" in space.run("bridge", "-d", "link", "show", "dev", "port")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_link_changes_are_told_once_for_many(space: labs.Namespace, loop: object) -> None:
    async def count() -> int:
        told = 0
        changes = netlink_changes.links(settle=0.05)
        await asyncio.wait_for(anext(changes), 20)  # nothing has changed yet: from now on it is told
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.02)
        space.ip("link add one type veth peer name two", "link set one up", "link set two up", "link del one")
        await asyncio.wait_for(first, 20)
        told += 1
        try:
            await asyncio.wait_for(anext(changes), 0.3)
            told += 1
        except TimeoutError:
            pass
        await changes.aclose()
        return told

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        assert runner.run(count()) in (1, 2)


async def test_a_bridge_that_comes_up_before_links_are_followed(space: labs.Namespace, tmp_path: Path) -> None:
    """As when dockerd makes it while the proxy starts: nothing else may happen on a node without pods."""
    space.ip("link add ktool0 type bridge", "addr add 10.244.0.1/24 dev ktool0")
    host = HostNetwork(NODE, record=tmp_path / "host.json")
    await asyncio.to_thread(host.connect_bridge)
    assert "dev ktool0 proto 107" not in space.run("ip", "route")
    space.ip("link set ktool0 up")
    async with contextlib.aclosing(netlink_changes.links()) as changes:
        await asyncio.wait_for(anext(changes), 20)
        await asyncio.to_thread(host.connect_bridge)
    assert "10.96.0.0/16 dev ktool0 proto 107" in space.run("ip", "route")
