"""The scheduling queue on a virtual clock: order, backoff, and who is woken by what."""

from __future__ import annotations

import asyncio
from typing import Any

from control.scheduler.pod_info import PodInfo, pod_info
from control.scheduler.queue import SchedulingQueue, backoff_seconds
from kube import objects
from kube.clock import VirtualClock
from kube.models import core_v1


def info(name: str, priority: int = 0, **spec: Any) -> PodInfo:
    data = {"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"priority": priority, **spec}}
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


async def test_a_pod_that_something_else_failed_is_tried_again_by_itself_ever_later() -> None:
    clock = VirtualClock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    pod = await queue.get()
    for attempt, seconds in enumerate((1, 2, 4, 8, 10, 10), start=1):
        queue.done(pod)
        queue.retry(pod)
        assert (pod.attempts, queue.counts) == (attempt, (0, 1, 0))
        waiting = asyncio.create_task(queue.get())
        await clock.advance(seconds - 0.1)
        assert not waiting.done()
        await clock.advance(0.2)
        assert (await waiting) is pod


async def test_a_placement_wakes_only_those_that_look_at_other_pods() -> None:
    term = {"topologyKey": "zone", "labelSelector": {}}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    spread = [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
    clock = VirtualClock()
    queue = SchedulingQueue(clock)
    queue.add(info("alone"))
    queue.add(info("near", affinity=affinity))
    queue.add(info("even", topologySpreadConstraints=spread))
    for _ in range(3):
        queue.failed(await queue.get(), queue.moves)
    assert queue.counts == (0, 0, 3)
    await clock.advance(5)
    queue.move_dependents()
    assert queue.counts == (2, 0, 1)
    assert {(await queue.get()).info.uid for _ in range(2)} == {"near", "even"}


async def test_a_changed_pod_is_tried_at_once_and_starts_anew() -> None:
    queue = SchedulingQueue(VirtualClock())
    queue.add(info("a"))
    old = await queue.get()
    queue.failed(old, queue.moves)
    queue.add(info("a", 7))
    assert queue.counts == (1, 0, 0)
    new = await queue.get()
    assert (new.info.priority, new.attempts, new.order) == (7, 0, old.order)
    queue.failed(old, queue.moves)
    assert queue.counts == (1, 0, 0)
