"""The scheduler's shell: informers fill snapshot and queue, decisions are bound, outcomes are told.

Decisions are made one after another (each sees what the earlier ones took); bindings are written side by side, because
each waits for the store. A binding that fails gives its room back and queues the pod again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass

from control.scheduler.decision import Decision, decide
from control.scheduler.filters import Filter, default_filters
from control.scheduler.pod_info import pod_info
from control.scheduler.queue import QueuedPod, SchedulingQueue
from control.scheduler.scores import Score, default_scores
from control.scheduler.snapshot import Snapshot
from kube import objects, times
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.events import EventRecorder
from kube.informer import DELETED, Delta, InformerFactory
from kube.models import core_v1, meta_v1
from kube.status import ApiError

NAME = "default-scheduler"
BINDINGS_AT_ONCE = 64
TERMINAL = ("Succeeded", "Failed")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SchedulerMetrics:
    """Counts since start, for /metrics."""

    scheduled: int = 0
    unschedulable: int = 0
    failed: int = 0
    decision_seconds: float = 0.0


class Scheduler:
    """Binds pods of one `schedulerName` to nodes until cancelled."""

    def __init__(
        self,
        client: Client,
        factory: InformerFactory,
        *,
        name: str = NAME,
        filters: tuple[Filter, ...] | None = None,
        scores: tuple[Score, ...] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.name = name
        self.metrics = SchedulerMetrics()
        self._client = client
        self._clock = clock or SystemClock()
        self._filters = filters if filters is not None else default_filters()
        self._scores = scores if scores is not None else default_scores()
        self._rng = random.Random(seed)  # noqa: S311 (breaks ties)
        self.snapshot = Snapshot()
        self.queue = SchedulingQueue(self._clock)
        self._events = EventRecorder(client, name, clock=self._clock)
        self._bindings = asyncio.Semaphore(BINDINGS_AT_ONCE)
        self._assumed: set[str] = set()
        self._nodes = factory.informer(core_v1.Node)
        self._pods = factory.informer(core_v1.Pod)

    async def run(self) -> None:
        """Schedule until cancelled."""
        self._nodes.add_handler(self._node_changed)
        self._pods.add_handler(self._pod_changed)
        await self._nodes.wait_synced()
        await self._pods.wait_synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events.run(), name="scheduler-events")
            while True:
                pod = await self.queue.get()
                self._schedule(pod, group)
                await asyncio.sleep(0)

    def _schedule(self, pod: QueuedPod, group: asyncio.TaskGroup) -> None:
        started = time.perf_counter()
        moves = self.queue.moves
        decision = decide(pod.info, self.snapshot, self._filters, self._scores, self._rng)
        self.metrics.decision_seconds += time.perf_counter() - started
        if decision.node:
            self.snapshot.place(pod.info, decision.node)
            self._assumed.add(pod.info.key)
            self.queue.done(pod)
            group.create_task(self._bind(pod, decision), name=f"bind-{pod.info.key}")
            return
        self.metrics.unschedulable += 1
        log.debug("%s: %s", pod.info.key, decision.message)
        self.queue.failed(pod, moves)
        group.create_task(self._tell_failure(pod, decision.message), name=f"unschedulable-{pod.info.key}")

    async def _bind(self, pod: QueuedPod, decision: Decision) -> None:
        info = pod.info
        namespace, name = objects.split_key(info.key)
        binding = core_v1.Binding(
            metadata=meta_v1.ObjectMeta(name=name, namespace=namespace, uid=info.uid),
            target=core_v1.ObjectReference(kind="Node", name=decision.node),
        )
        try:
            async with self._bindings:
                await self._client.create_subresource(core_v1.Pod, name, "binding", binding, namespace=namespace)
        except (ApiError, ConnectionError, TimeoutError) as error:
            self._binding_failed(pod, decision.node, error)
            return
        finally:
            self._assumed.discard(info.key)
        self.metrics.scheduled += 1
        message = f"Successfully assigned {info.key} to {decision.node}"
        self._events.event(info.pod, "Normal", "Scheduled", message)

    def _binding_failed(self, pod: QueuedPod, node: str, error: Exception) -> None:
        """Give the room back; try again if the pod still wants a node."""
        self.metrics.failed += 1
        current = self._pods.get(pod.info.key)
        if current is not None and current.spec and current.spec.nodeName:
            return  # bound after all: the answer was lost, or somebody else was faster; the informer's word counts
        self.snapshot.remove(pod.info.key)
        self.queue.move_all()
        if current is not None and self._wants_node(current):
            log.info("binding %s to %s failed: %s", pod.info.key, node, error)
            again = QueuedPod(pod_info(current), pod.order, pod.attempts)
            self.queue.add(again.info)
            self._events.event(current, "Warning", "FailedScheduling", f"binding rejected: {error}")

    async def _tell_failure(self, pod: QueuedPod, message: str) -> None:
        """Set the condition PodScheduled=False and record an event, as kubectl describe shows them."""
        self._events.event(pod.info.pod, "Warning", "FailedScheduling", message)
        namespace, name = objects.split_key(pod.info.key)
        status = pod.info.pod.status or core_v1.PodStatus()
        known = objects.condition(status.conditions, "PodScheduled")
        if known is not None and known.status == "False" and known.message == message:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": times.now_rfc3339(self._clock),
        }
        others = [objects.to_dict(c) for c in status.conditions if c.type != "PodScheduled"]
        patch = {"metadata": {"uid": pod.info.uid}, "status": {"conditions": [*others, condition]}}
        try:
            await self._client.patch(core_v1.Pod, name, patch, namespace=namespace, subresource="status")
        except (ApiError, ConnectionError, TimeoutError) as error:
            # the event tells it too, and the next attempt writes it again
            log.info("cannot tell that %s is unschedulable: %s", pod.info.key, error)

    def _wants_node(self, pod: core_v1.Pod) -> bool:
        spec, status = pod.spec, pod.status or core_v1.PodStatus()
        return (
            spec is not None
            and not spec.nodeName
            and (spec.schedulerName or NAME) == self.name
            and not spec.schedulingGates
            and not objects.is_deleting(pod)
            and status.phase not in TERMINAL
        )

    def _node_changed(self, delta: Delta[core_v1.Node]) -> None:
        if delta.type == DELETED:
            self.snapshot.remove_node(objects.name(delta.object))
        elif self.snapshot.set_node(delta.object):
            self.queue.move_all()

    def _pod_changed(self, delta: Delta[core_v1.Pod]) -> None:
        pod = delta.object
        key = objects.key(pod)
        node = pod.spec.nodeName if pod.spec else None
        ended = (pod.status or core_v1.PodStatus()).phase in TERMINAL
        if delta.type == DELETED or (node and ended):
            self.queue.remove(key)
            if self.snapshot.remove(key):
                self.queue.move_all()
        elif node:
            self.queue.remove(key)
            self.snapshot.place(pod_info(pod), node)
        elif not self._wants_node(pod):
            self.queue.remove(key)
        elif key not in self._assumed and _matters(delta):
            self.queue.add(pod_info(pod))


def _matters(delta: Delta[core_v1.Pod]) -> bool:
    """Whether a change of a waiting pod could help it: a status alone does not (we wrote it ourselves)."""
    old, new = delta.old, delta.object
    return old is None or old.spec != new.spec or old.metadata.labels != new.metadata.labels
