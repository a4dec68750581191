"""The scheduling queue on a virtual clock: order, backoff, and who is woken by what."""

from __future__ import annotations

import asyncio

from control.scheduler.pod_info import PodInfo, pod_info
from control.scheduler.queue import SchedulingQueue, backoff_seconds
from kube import objects
from kube.clock import VirtualClock
from kube.models import core_v1


def info(name: str, priority: int = 0) -> PodInfo:
    data = {"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"priority": priority}}
    return pod_info(objects.from_dict(data, core_v1.Pod))


async def test_higher_priority_first_then_arrival() -> None:
    queue = SchedulingQueue(VirtualClock())
    for name, priority in (("a", 0), ("b", 5), ("c", 0)):
        queue.add(info(name, priority))
    assert [(await queue.get()).info.uid for _ in range(3)] == ["b", "a", "c"]


async def test_an_unschedulable_pod_waits_for_a_change_and_for_its_backoff() -> None:
    clock = VirtualClock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    pod = await queue.get()
    queue.failed(pod, queue.moves)
    assert queue.counts == (0, 0, 1)
    waiting = asyncio.create_task(queue.get())
    await clock.advance(30)
    assert not waiting.done()
    queue.move_all()
    await clock.settle()
    assert (await waiting) is pod

    queue.failed(pod, queue.moves)
    queue.move_all()
    waiting = asyncio.create_task(queue.get())
    await clock.advance(backoff_seconds(2) - 0.1)
    assert not waiting.done()
    await clock.advance(0.2)
    assert (await waiting) is pod


async def test_a_change_during_the_decision_is_not_lost() -> None:
    clock = VirtualClock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    pod = await queue.get()
    moves = queue.moves
    queue.move_all()
    queue.failed(pod, moves)
    assert queue.counts == (0, 1, 0)


async def test_nobody_waits_for_ever() -> None:
    clock = VirtualClock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    queue.failed(await queue.get(), queue.moves)
    waiting = asyncio.create_task(queue.get())
    await clock.advance(301)
    assert (await waiting).info.uid == "a"


async def test_a_removed_pod_never_comes_up() -> None:
    queue = SchedulingQueue(VirtualClock())
    queue.add(info("a"))
    queue.add(info("b"))
    queue.remove("d/a")
    assert (await queue.get()).info.uid == "b"
    assert len(queue) == 1
