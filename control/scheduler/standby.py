"""The scheduler before its first pod.

It is the largest part of a master to load (numpy alone has more to it than the whole API server), and a cluster that
starts has no use for it: its machine has a node to get Ready first. So it is loaded when the first pod waits for a
node, or else a little later when the rush is over; in a thread, so that the API answers meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib

from kube.clock import Clock
from kube.informer import DELETED, Delta, InformerFactory
from kube.models import core_v1

# How long after the start it is loaded without need, so that a later first pod need not wait for that.
LATEST_SECONDS = 30.0


async def load_when_needed(factory: InformerFactory, clock: Clock) -> None:
    """Return when the scheduler is wanted, with its modules loaded."""
    await _until_wanted(factory, clock)
    await asyncio.to_thread(importlib.import_module, "control.scheduler.scheduler")


async def _until_wanted(factory: InformerFactory, clock: Clock) -> None:
    wanted = asyncio.Event()

    def look(delta: Delta[core_v1.Pod]) -> None:
        if delta.type != DELETED and waits_for_node(delta.object):
            wanted.set()

    pods = factory.informer(core_v1.Pod)
    pods.add_handler(look)
    tasks = [asyncio.ensure_future(wanted.wait()), asyncio.ensure_future(clock.sleep(LATEST_SECONDS))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pods.remove_handler(look)
        for task in tasks:
            task.cancel()


def waits_for_node(pod: core_v1.Pod) -> bool:
    """Whether somebody has to choose a node for this pod."""
    return pod.spec is not None and not pod.spec.nodeName
