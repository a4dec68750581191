from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.clock import VirtualClock
from kube.workqueue import ShutDownError, WorkQueue


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def queue(clock: VirtualClock) -> WorkQueue[str]:
    return WorkQueue("test", clock=clock)


class Log:
    """What workers took, and when."""

    def __init__(self, queue: WorkQueue[str], clock: VirtualClock) -> None:
        self.taken: list[tuple[str, float]] = []
        self._queue = queue
        self._clock = clock

    async def work(self, seconds: float = 0) -> None:
        while True:
            try:
                key = await self._queue.get()
            except ShutDownError:
                return
            self.taken.append((key, round(self._clock.monotonic(), 3)))
            await self._clock.sleep(seconds)
            self._queue.done(key)


@asynccontextmanager
async def workers(
    queue: WorkQueue[str], clock: VirtualClock, *, number: int = 1, seconds: float = 0
) -> AsyncIterator[Log]:
    log = Log(queue, clock)
    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(log.work(seconds))
        await clock.settle()
        yield log
        queue.shut_down()
        await clock.advance(seconds * 2)


async def test_first_in_first_out_and_each_once(queue: WorkQueue[str]) -> None:
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert len(queue) == 3
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert (len(queue), queue.processing, queue.adds) == (0, 3, 3)


async def test_a_key_added_while_worked_on_returns_when_done(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert (len(queue), queue.processing) == (0, 0)
    queue.done("a")
    assert len(queue) == 0


async def test_get_waits_for_a_key(queue: WorkQueue[str], clock: VirtualClock) -> None:
    async with workers(queue, clock, number=3) as log:
        queue.add("a")
        queue.add("b")
        await clock.settle()
        assert log.taken == [("a", 0.0), ("b", 0.0)]


async def test_delayed_keys_come_in_time_the_earliest_delay_counts(queue: WorkQueue[str], clock: VirtualClock) -> None:
    async with workers(queue, clock) as log:
        queue.add_after("late", 10)
        queue.add_after("late", 20)
        queue.add_after("soon", 5)
        queue.add_after("soon", 2)
        queue.add_after("now", 0)
        await clock.settle()
        assert log.taken == [("now", 0.0)]
        assert queue.delayed == 2
        await clock.advance(30)
        assert log.taken[1:] == [("soon", 2.0), ("late", 10.0)]
        assert queue.delayed == 0


async def test_delayed_keys_count_as_depth_when_due_even_if_nobody_waits(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    queue.add_after("a", 1)
    assert (len(queue), queue.delayed) == (0, 1)
    await clock.advance(1)
    assert (len(queue), queue.delayed) == (1, 0)


async def test_failures_back_off_exponentially_up_to_a_bound(clock: VirtualClock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    delays = []
    for _ in range(24):
        before = clock.monotonic()
        queue.add_rate_limited("a")
        while len(queue) == 0:
            await clock.advance(queue._delayed[0][0] - clock.monotonic())
        delays.append(round(clock.monotonic() - before, 3))
        queue.done(await queue.get())
    assert delays[:5] == [0.005, 0.01, 0.02, 0.04, 0.08]
    assert delays[-6:] == [1000.0] * 6
    assert queue.failures("a") == queue.retries == 24
    queue.forget("a")
    assert queue.failures("a") == 0
    queue.add_rate_limited("a")
    await clock.advance(0.005)
    assert len(queue) == 1
    queue._failures["a"] = 100_000
    queue.add_rate_limited("a")


async def test_shut_down_hands_out_the_rest_and_then_ends(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add("a")
    queue.add_after("later", 1)
    queue.shut_down()
    queue.add("b")
    queue.add_after("c", 0)
    queue.add_after("d", 1)
    await clock.advance(2)
    assert await queue.get() == "a"
    with pytest.raises(ShutDownError):
        await queue.get()


async def test_shut_down_wakes_who_waits(queue: WorkQueue[str], clock: VirtualClock) -> None:
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    queue.add_after("later", 1)
    await clock.settle()
    queue.shut_down()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ShutDownError] * 3
    assert clock.sleepers == 0


async def test_a_wake_up_is_not_lost_with_the_one_it_was_meant_for(queue: WorkQueue[str], clock: VirtualClock) -> None:
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await clock.settle()
    queue.add("a")
    first.cancel()
    await clock.settle()
    assert first.cancelled()
    assert await asyncio.wait_for(second, 1) == "a"


async def test_a_cancelled_get_leaves_nothing_behind(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add_after("a", 5)
    task = asyncio.create_task(queue.get())
    await clock.settle()
    assert clock.sleepers == 1
    task.cancel()
    await clock.settle()
    assert clock.sleepers == 0
    assert not queue._getters


async def test_the_slowest_key(queue: WorkQueue[str], clock: VirtualClock) -> None:
    assert queue.longest_running() == 0
    queue.add("a")
    await queue.get()
    await clock.advance(3)
    assert queue.longest_running() == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0, 3.0])), max_size=30))
def test_no_key_is_lost_or_worked_on_twice_at_once(steps: list[tuple[str, float]]) -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        queue: WorkQueue[str] = WorkQueue(clock=clock)
        busy: set[str] = set()
        added: dict[str, float] = {}
        taken: dict[str, float] = {}

        async def worker() -> None:
            while True:
                try:
                    key = await queue.get()
                except ShutDownError:
                    return
                assert key not in busy
                busy.add(key)
                taken[key] = clock.monotonic()
                await clock.sleep(0.7)
                busy.discard(key)
                queue.done(key)

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(worker())
            for key, pause in steps:
                queue.add(key)
                added[key] = clock.monotonic()
                await clock.advance(pause)
            await clock.advance(60)
            queue.shut_down()
        # Whatever was added was taken afterwards: the worker saw everything that the adder had written.
        assert all(taken[key] >= moment for key, moment in added.items())
        assert queue.processing == 0

    asyncio.run(scenario())
