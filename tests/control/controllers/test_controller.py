"""The frame: when controllers start, what becomes of failures."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from control.controllers.controller import Context, Controller, StaleCacheError, raise_first, run_all
from kube import objects
from kube.informer import Delta
from kube.models import core_v1, meta_v1
from kube.status import ApiError, conflict, service_unavailable
from kube.transport import Request
from tests.control.controllers.cluster import Cluster, running


class Counting(Controller):
    """Notes each reconciliation; fails as `failures` say, in order."""

    name = "counting"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.seen: list[tuple[float, str]] = []
        self.failures: list[Exception] = []
        self.again: float | None = None
        self.maps = self.watch(core_v1.ConfigMap, self._on_map)

    def _on_map(self, delta: Delta[core_v1.ConfigMap]) -> None:
        if objects.name(delta.object) == "poison":
            raise ValueError("cannot take this in")
        self.queue.add(objects.key(delta.object))

    async def reconcile(self, key: str) -> float | None:
        self.seen.append((self.clock.monotonic(), key))
        if self.failures:
            raise self.failures.pop(0)
        return self.again


def config_map(name: str) -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name=name, namespace="default"))


class Made:
    """Makes the controller and keeps it for the test."""

    controller: Counting

    def __call__(self, context: Context) -> Counting:
        self.controller = Counting(context)
        return self.controller


async def test_what_was_there_before_comes_first() -> None:
    made = Made()
    async with running(made, seed=(objects.to_dict(config_map("old")),)) as cluster:
        await cluster.client.create(config_map("new"))
        await cluster.settle()
        assert [key for _, key in made.controller.seen] == ["default/old", "default/new"]


async def test_nothing_is_done_before_the_first_list() -> None:
    made = Made()
    cluster = Cluster()

    def refuse(request: Request) -> ApiError | None:
        return service_unavailable("not yet") if request.method == "GET" else None

    cluster.api.refuse = refuse
    cluster.start(made(cluster.context))
    try:
        made.controller.queue.add("default/early")
        await cluster.clock.advance(30)
        assert made.controller.seen == []
    finally:
        await cluster.stop()


async def test_a_failing_key_comes_back_later_each_time_and_then_afresh() -> None:
    made = Made()
    async with running(made) as cluster:
        controller = made.controller
        controller.failures = [service_unavailable("busy"), StaleCacheError("behind"), RuntimeError("a fault")]
        await cluster.client.create(config_map("a"))
        await cluster.settle()
        moments = [moment for moment, _ in controller.seen]
        assert [later - earlier for earlier, later in pairwise(moments)] == pytest.approx([0.005, 0.01, 0.02])
        assert (controller.metrics.reconciles, controller.metrics.errors) == (4, 3)
        assert controller.queue.failures("default/a") == 0


async def test_a_conflict_is_no_error() -> None:
    made = Made()
    async with running(made) as cluster:
        made.controller.failures = [conflict("configmaps", "a"), ExceptionGroup("", [conflict("configmaps", "a")])]
        await cluster.client.create(config_map("a"))
        await cluster.settle()
        assert len(made.controller.seen) == 3
        assert (made.controller.metrics.errors, made.controller.metrics.conflicts) == (0, 2)


async def test_a_key_asks_to_be_looked_at_again() -> None:
    made = Made()
    async with running(made) as cluster:
        made.controller.again = 60.0
        await cluster.client.create(config_map("a"))
        await cluster.advance(200)
        assert len(made.controller.seen) == 4


async def test_an_event_that_cannot_be_taken_in_ends_nothing() -> None:
    made = Made()
    async with running(made) as cluster:
        await cluster.client.create(config_map("poison"))
        await cluster.client.create(config_map("fine"))
        await cluster.settle()
        assert [key for _, key in made.controller.seen] == ["default/fine"]
        assert made.controller.metrics.errors == 1


async def test_a_controller_can_be_run_again() -> None:
    made = Made()
    cluster = Cluster()
    controller = made(cluster.context)
    cluster.start()
    try:
        for _ in range(2):
            task = asyncio.create_task(controller.run())
            await cluster.client.create(config_map(f"c{len(controller.seen)}"))
            await cluster.settle()
            task.cancel()
            await asyncio.wait([task])
        assert [key for _, key in controller.seen] == ["default/c0", "default/c0", "default/c1"]
    finally:
        await cluster.stop()


async def test_run_all_makes_every_call() -> None:
    done: list[int] = []

    async def call(number: int) -> None:
        done.append(number)
        if number % 2:
            raise ValueError(str(number))

    errors = await run_all([lambda n=n: call(n) for n in range(5)])  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]
    assert [str(e) for e in errors] == ["1", "3"]
    with pytest.raises(ExceptionGroup):
        raise_first(errors)
    with pytest.raises(ValueError, match="1"):
        raise_first(errors[:1])
    raise_first([])
