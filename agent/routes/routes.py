"""The routes role: the node always has a route to every other node's pods (ADR 0019).

Nodes are followed by an informer of its own, which decodes nothing but names, ranges and addresses; a change of
anything else wakes nobody. The kernel tells when routes change: a link that comes up again has lost those that led
over it. Besides, everything is looked at once a minute.

Routes stay when the agent stops, so that pods go on talking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol as Interface
from typing import TypeVar

from msgspec import Struct

from agent import netlink_changes
from agent.routes.kernel import KernelRoutes
from agent.routes.node_place import PlacedNode, place_of
from agent.routes.plan import Plan, Problem, Route, plan
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.informer import Delta, InformerFactory

log = logging.getLogger(__name__)

T = TypeVar("T")

# Changes within this time are planned together: a lab's nodes join at about the same time.
COALESCE_SECONDS = 0.1
CHECK_SECONDS = 60.0
RETRY_SECONDS = 10.0
SYNCED_SECONDS = 60.0


class Table(Interface):
    """What the role needs of the kernel (KernelRoutes)."""

    def read(self) -> list[Route]: ...

    def apply(self, plan: Plan) -> list[Problem]: ...


class RoutesStatus(Struct, frozen=True):
    """How the role is doing: number of `routes` that lead to other nodes' pods, and why some are missing."""

    synced: bool = False
    routes: int = 0
    problems: tuple[Problem, ...] = ()
    error: str = ""

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty while all is well."""
        shown = [str(problem) for problem in self.problems[:3]]
        more = [f"and {len(self.problems) - 3} more"] if len(self.problems) > 3 else []
        return self.error or "; ".join([*shown, *more])


class PodRoutes:
    """Keeps one node's routes to the pods of the others. `table`, `changes` and `executor` are seams for tests."""

    def __init__(
        self,
        factory: InformerFactory,
        node_name: str,
        *,
        cluster_cidr: str,
        table: Table | None = None,
        changes: Callable[[], AsyncGenerator[None]] = netlink_changes.routes,
        executor: Executor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.status = RoutesStatus()
        self._name = node_name
        self._cluster_cidr = cluster_cidr
        self._table: Table = table or KernelRoutes()
        self._changes = changes
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix="routes")
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()
        self._nodes = factory.informer(PlacedNode)
        self._nodes.add_handler(self._node_changed)

    async def run(self) -> None:
        """Keep the routes right until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_in_sync(), name="routes-sync")
                group.create_task(self._keep_watch(), name="routes-check")
                group.create_task(self._follow_kernel(), name="routes-kernel")
        finally:
            self._executor.shutdown(wait=True)  # what runs there takes milliseconds

    def _node_changed(self, delta: Delta[PlacedNode]) -> None:
        if delta.old is None or place_of(delta.old) != place_of(delta.object) or delta.type == "DELETED":
            self._wake.set()

    async def _keep_in_sync(self) -> None:
        while not self._nodes.synced:  # with half a list, routes of the other half would go
            try:
                await self._nodes.wait_synced(SYNCED_SECONDS)
            except TimeoutError:
                log.warning("the Nodes have not come yet; routes stay as they are")
        self._wake.set()
        while True:
            await self._wake.wait()
            await self._clock.sleep(COALESCE_SECONDS)
            self._wake.clear()
            try:
                await self.sync()
            except KtoolError as error:
                if str(error) != self.status.error:
                    log.warning("routes: %s", error)
                self.status = RoutesStatus(False, self.status.routes, self.status.problems, str(error))
                await self._clock.sleep(RETRY_SECONDS)
                self._wake.set()

    async def sync(self) -> None:
        """Look once, and change what differs. KtoolError if the kernel's routes cannot be read."""
        existing = await self._in_thread(self._table.read)
        places = [place_of(node) for node in self._nodes.list()]
        wanted = plan(places, self._name, existing, cluster_cidr=self._cluster_cidr)
        refused: list[Problem] = []
        if wanted.add or wanted.replace or wanted.delete:
            refused = await self._in_thread(lambda: self._table.apply(wanted))
        problems = (*wanted.problems, *refused)
        for problem in problems:
            if problem not in self.status.problems:
                log.warning("%s", problem)
        count = len(wanted.add) + len(wanted.replace) + len(wanted.kept) - len(refused)
        self.status = RoutesStatus(True, count, problems)

    async def _keep_watch(self) -> None:
        while True:
            await self._clock.sleep(CHECK_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            self._wake.set()

    async def _follow_kernel(self) -> None:
        async with contextlib.aclosing(self._changes()) as changes:
            async for _ in changes:
                self._wake.set()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
