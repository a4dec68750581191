"""The role as a whole, over the fake API: what wakes it, what it tells, what it does not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

from agent.routes.node_place import PlacedNode
from agent.routes.plan import Plan, Problem, Route
from agent.routes.routes import PodRoutes
from kube.client import Client
from kube.clock import VirtualClock
from kube.errors import KtoolError
from kube.informer import InformerFactory
from tests.fake_api import FakeAPI

LAN = Route("192.0.2.0/24", protocol=2)


class Table:
    """A kernel in memory."""

    def __init__(self) -> None:
        self.routes = [LAN]
        self.reads = 0
        self.refuse: list[Problem] = []
        self.broken = False

    def read(self) -> list[Route]:
        self.reads += 1
        if self.broken:
            raise KtoolError("cannot read the routes", found="not today")
        return [*self.routes]

    def apply(self, plan: Plan) -> list[Problem]:
        if self.refuse:
            return self.refuse
        changed = {r.destination for r in (*plan.delete, *plan.replace)}
        self.routes = [r for r in self.routes if r.destination not in changed] + [*plan.replace, *plan.add]
        return []

    @property
    def ours(self) -> list[str]:
        return sorted(f"{r.destination} via {r.gateway}" for r in self.routes if r is not LAN)


def node(name: str, number: int, *, address: str = "", **more: Any) -> dict[str, Any]:
    cidr = f"10.244.{number}.0/24"
    addresses = [{"type": "InternalIP", "address": address or f"192.0.2.{number}"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": addresses, **more},
    }


class AtOnce(Executor):
    """In place of a thread, which would not be on virtual time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (whatever it is, whoever waits gets it)
            future.set_exception(error)
        return future


@asynccontextmanager
async def running(api: FakeAPI, clock: VirtualClock, table: Table) -> AsyncIterator[tuple[PodRoutes, asyncio.Event]]:
    lost = asyncio.Event()

    async def changes() -> AsyncGenerator[None]:
        while True:
            await lost.wait()
            lost.clear()
            yield

    factory = InformerFactory(Client(api))
    role = PodRoutes(
        factory,
        "one",
        cluster_cidr="10.244.0.0/16",
        table=table,
        changes=changes,
        executor=AtOnce(),
        clock=clock,
    )
    tasks = [asyncio.create_task(factory.run()), asyncio.create_task(role.run())]
    try:
        yield role, lost
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5)


async def settle(clock: VirtualClock, seconds: float = 0.5) -> None:
    for _ in range(5):
        await clock.advance(seconds / 5)


async def test_routes_follow_the_nodes() -> None:
    clock = VirtualClock()
    api, table = FakeAPI(clock), Table()
    api.put(node("one", 1))
    api.put(node("two", 2))
    async with running(api, clock, table) as (role, lost):
        await settle(clock)
        assert table.ours == ["10.244.2.0/24 via 192.0.2.2"]
        assert (role.status.synced, role.status.routes, role.status.problem) == (True, 1, "")

        api.put(node("three", 3))
        await settle(clock)
        assert table.ours == ["10.244.2.0/24 via 192.0.2.2", "10.244.3.0/24 via 192.0.2.3"]

        table.routes = [LAN]  # a link went down and came up again
        lost.set()
        await settle(clock)
        assert len(table.ours) == 2

        api.remove("Node", "two")
        await settle(clock)
        assert table.ours == ["10.244.3.0/24 via 192.0.2.3"]


async def test_heartbeats_wake_nobody() -> None:
    clock = VirtualClock()
    api, table = FakeAPI(clock), Table()
    api.put(node("two", 2))
    async with running(api, clock, table) as (role, _):
        await settle(clock)
        reads = table.reads
        for beat in range(5):
            api.change("Node", "two", status=node("two", 2, conditions=[{"type": "Ready", "x": beat}])["status"])
        await settle(clock)
        assert table.reads == reads
        (kept,) = role._nodes.list()
        assert isinstance(kept, PlacedNode)
        api.change("Node", "two", status=node("two", 2, address="192.0.2.22")["status"])
        await settle(clock)
        assert table.ours == ["10.244.2.0/24 via 192.0.2.22"]


async def test_what_is_missing_is_told_and_tried_again() -> None:
    clock = VirtualClock()
    api, table = FakeAPI(clock), Table()
    api.put(node("two", 2))
    api.put(node("far", 7, address="198.51.100.7"))
    table.refuse = [Problem("10.244.2.0/24", "the kernel refuses")]
    async with running(api, clock, table) as (role, _):
        await settle(clock)
        assert role.status.routes == 0
        assert "far: its address 198.51.100.7 is not on a network of this node" in role.status.problem
        assert "the kernel refuses" in role.status.problem
        table.refuse = []
        await settle(clock, 80)
        assert table.ours == ["10.244.2.0/24 via 192.0.2.2"]
        assert "kernel" not in role.status.problem

        table.broken = True
        await settle(clock, 80)
        assert "cannot read the routes" in role.status.problem
        table.broken = False
        await settle(clock, 12)
        assert role.status.error == ""
