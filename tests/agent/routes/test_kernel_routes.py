"""Routes in the kernel, in a namespace of their own: made, changed, taken back; and told when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvloop

from agent import netlink_changes
from agent.routes import kernel
from agent.routes.kernel import KernelRoutes
from agent.routes.plan import Plan, Problem, Route
from tests.agent.proxy import lab as labs

pytestmark = [
    pytest.mark.nftables,
    pytest.mark.skipif(bool(labs.missing()), reason=labs.missing() or "there is a lab"),
]

TO_TWO = Route("10.244.2.0/24", "192.0.2.2")


@pytest.fixture
def space() -> Iterator[labs.Namespace]:
    with ExitStack() as stack:
        made = labs.Namespace(stack)
        stack.enter_context(made.inside())
        made.ip(
            "link add lan type veth peer name cable",
            "link set cable up",
            "addr add 192.0.2.1/24 dev lan",
            "link set lan up",
            "route add 10.244.9.0/24 via 192.0.2.9",
            "route add unreachable 10.96.0.0/16",
        )
        yield made


def ours(space: labs.Namespace) -> list[str]:
    return [line.strip() for line in space.run("ip", "route", "show", "proto", "108").splitlines()]


def test_routes_are_made_changed_and_taken_back(space: labs.Namespace) -> None:
    table = KernelRoutes()
    before = table.read()
    assert Route("192.0.2.0/24", protocol=2) in before
    assert Route("10.244.9.0/24", "192.0.2.9", protocol=3) in before
    assert not [route for route in before if route.destination == "10.96.0.0/16"]

    assert table.apply(Plan(add=(TO_TWO,))) == []
    assert ours(space) == ["10.244.2.0/24 via 192.0.2.2 dev lan"]
    assert TO_TWO in table.read()
    assert table.apply(Plan(replace=(Route("10.244.2.0/24", "192.0.2.3"),))) == []
    assert ours(space) == ["10.244.2.0/24 via 192.0.2.3 dev lan"]

    kernel.remove(cluster_cidr="10.244.0.0/16")
    assert table.read() == before
    kernel.remove(cluster_cidr="10.244.0.0/16")


def test_what_the_kernel_refuses_is_told(space: labs.Namespace) -> None:
    table = KernelRoutes()
    far, taken = Route("10.244.3.0/24", "198.51.100.1"), Route("10.244.9.0/24", "192.0.2.2")
    refused = table.apply(Plan(add=(far, TO_TWO, taken)))
    assert [problem.node for problem in refused] == ["10.244.3.0/24", "10.244.9.0/24"]
    assert all(isinstance(problem, Problem) and "the kernel refuses" in problem.reason for problem in refused)
    assert ours(space) == ["10.244.2.0/24 via 192.0.2.2 dev lan"]
    assert table.apply(Plan(delete=(far,))) == []  # gone already


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_lost_routes_are_told(space: labs.Namespace, loop: object) -> None:
    async def told(*lines: str) -> bool:
        changes = netlink_changes.routes(settle=0.05)
        await asyncio.wait_for(anext(changes), 20)  # nothing has changed yet: from now on it is told
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.02)
        space.ip(*lines)
        done, _ = await asyncio.wait([first], timeout=20)
        if not done:
            first.cancel()
            await asyncio.wait([first])
        await changes.aclose()
        return bool(done)

    KernelRoutes().apply(Plan(add=(TO_TWO,)))
    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        assert runner.run(told("route del 10.244.2.0/24"))
        assert runner.run(told("link set lan down", "link set lan up"))
