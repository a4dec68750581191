from __future__ import annotations

import asyncio

import pytest

from kube.clock import Clock, SystemClock, VirtualClock


async def test_sleepers_wake_in_order_at_their_time() -> None:
    clock = VirtualClock(start=1000.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.time()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 10))
        group.create_task(sleeper("often", 3, 3, 3))
        group.create_task(sleeper("never-waits", 0))
        await clock.advance(2.5)
        assert woken == [("never-waits", 1000.0)]
        assert clock.sleepers == 2
        await clock.advance(7.5)
    assert woken[1:] == [("often", 1003.0), ("often", 1006.0), ("often", 1009.0), ("late", 1010.0)]
    assert clock.monotonic() == 10.0


async def test_same_deadline_wakes_in_order_of_asking() -> None:
    clock = VirtualClock()
    woken: list[int] = []

    async def sleeper(number: int) -> None:
        await clock.sleep(1)
        woken.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(sleeper(number))
        await clock.advance(1)
    assert woken == [0, 1, 2, 3, 4]


async def test_a_cancelled_sleeper_is_passed_over() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    await clock.advance(10)
    assert clock.monotonic() == 10


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        await VirtualClock().advance(-1)


async def test_the_system_clock_moves() -> None:
    clock: Clock = SystemClock()
    before, wall = clock.monotonic(), clock.time()
    await clock.sleep(0.001)
    await clock.sleep(-1)
    assert clock.monotonic() > before
    assert abs(clock.time() - wall) < 60
