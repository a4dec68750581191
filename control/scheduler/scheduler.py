"""The scheduler's shell: informers fill snapshot and queue, decisions are bound, outcomes are told.

Decisions are made one after another (each sees what the earlier ones took); bindings are written side by side, because
each waits for the store. A binding that fails gives its room back and queues the pod again. A plugin that fails costs
its pod an attempt and nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import ExitStack

from msgspec import Struct

from control.scheduler import registry
from control.scheduler.binding import bind
from control.scheduler.decision import Decision, NodeExplanation, decide, explain
from control.scheduler.decision_log import DecisionLog, DecisionRecord
from control.scheduler.plugin import Filter, Score
from control.scheduler.pod_info import PodInfo, pod_info
from control.scheduler.queue import QueuedPod, SchedulingQueue
from control.scheduler.snapshot import Snapshot
from kube import events, objects, times
from kube.client import Client, PatchType
from kube.clock import Clock, SystemClock
from kube.errors import KtoolError
from kube.informer import DELETED, Delta, InformerFactory
from kube.models import core_v1
from kube.status import ApiError

NAME = "default-scheduler"
WRITES_AT_ONCE = 64
TERMINAL = ("Succeeded", "Failed")

# reasons of the condition PodScheduled=False
UNSCHEDULABLE = "Unschedulable"
SCHEDULER_ERROR = "SchedulerError"

log = logging.getLogger(__name__)


class SchedulerMetrics(Struct):
    """Counts since start, for /metrics. `errors`: attempts that a failing plugin spoiled."""

    scheduled: int = 0
    unschedulable: int = 0
    errors: int = 0
    failed: int = 0
    decision_seconds: float = 0.0


class Scheduler:
    """Binds pods of one `schedulerName` to nodes until cancelled.

    `filters` and `scores` replace the default plugins and those of entry points.
    """

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
        self.decisions = DecisionLog()
        self._client = client
        self._clock = clock or SystemClock()
        self._filters = filters
        self._scores = scores
        self._rng = random.Random(seed)  # noqa: S311 (breaks ties)
        self.snapshot = Snapshot()
        self.queue = SchedulingQueue(self._clock)
        self._events = events.EventRecorder(client, name, clock=self._clock)
        self._writes = asyncio.Semaphore(WRITES_AT_ONCE)
        # key → uid of pods whose binding is under way
        self._assumed: dict[str, str] = {}
        self._namespaces = factory.informer(core_v1.Namespace)
        self._nodes = factory.informer(core_v1.Node)
        self._pods = factory.informer(core_v1.Pod)

    async def run(self) -> None:
        """Schedule until cancelled."""
        if self._filters is None:
            self._filters = registry.default_filters() + await asyncio.to_thread(registry.extra_filters)
        if self._scores is None:
            self._scores = registry.default_scores() + await asyncio.to_thread(registry.extra_scores)
        with ExitStack() as stack:
            self._namespaces.add_handler(self._namespace_changed)
            stack.callback(self._namespaces.remove_handler, self._namespace_changed)
            self._nodes.add_handler(self._node_changed)
            stack.callback(self._nodes.remove_handler, self._node_changed)
            self._pods.add_handler(self._pod_changed)
            stack.callback(self._pods.remove_handler, self._pod_changed)
            # before all three are known, pods would go to the wrong nodes
            for informer in (self._namespaces, self._nodes, self._pods):
                await informer.wait_synced()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._events.run(), name="scheduler-events")
                while True:
                    pod = await self.queue.get()
                    self._schedule(pod, group)
                    await asyncio.sleep(0)

    def explain(self, key: str) -> list[NodeExplanation]:
        """What each node would be to a pod (`namespace/name`) now, the best first; as if it were not placed yet.

        Raises KtoolError if there is no such pod, PluginError if a plugin fails.
        """
        pod = self._pods.get(key)
        if pod is None:
            raise KtoolError("no such pod", found=key)
        unbound = objects.copy(pod)
        if unbound.spec is not None:
            unbound.spec.nodeName = None
        placed = self.snapshot.placements.get(key)
        self.snapshot.remove(key)
        try:
            return explain(pod_info(unbound), self.snapshot, self._filters or (), self._scores or ())
        finally:
            if placed is not None:
                self.snapshot.place(placed.info, placed.node)

    # --- one pod ---------------------------------------------------------------------------------------------------

    def _schedule(self, pod: QueuedPod, group: asyncio.TaskGroup) -> None:
        started = time.perf_counter()
        moves = self.queue.moves
        reason = UNSCHEDULABLE
        try:
            decision = decide(pod.info, self.snapshot, self._filters or (), self._scores or (), self._rng)
        except Exception as error:
            # plugins are anybody's code: whatever they raise is this pod's trouble and not the scheduler's end
            log.exception("no decision for %s", pod.info.key)
            decision, reason = Decision("", str(error) or type(error).__name__), SCHEDULER_ERROR
        seconds = time.perf_counter() - started
        self.metrics.decision_seconds += seconds
        info = pod.info
        self.decisions.add(DecisionRecord(self._clock.time(), info.key, info.uid, pod.attempts + 1, decision, seconds))
        if decision.node:
            self.snapshot.place(info, decision.node)
            self._assumed[info.key] = info.uid
            self.queue.done(pod)
            self.queue.move_dependents()
            group.create_task(self._bind(pod, decision.node), name=f"bind-{info.key}")
            return
        log.debug("%s: %s", info.key, decision.message)
        if reason == SCHEDULER_ERROR:
            self.metrics.errors += 1
            self.queue.retry(pod)
        else:
            self.metrics.unschedulable += 1
            self.queue.failed(pod, moves)
        group.create_task(self._tell_failure(info, reason, decision.message), name=f"unschedulable-{info.key}")

    async def _bind(self, pod: QueuedPod, node: str) -> None:
        info = pod.info
        try:
            async with self._writes:
                await bind(self._client, info, node)
        except (ApiError, ConnectionError, TimeoutError) as error:
            self._binding_failed(pod, node, error)
            return
        finally:
            if self._assumed.get(info.key) == info.uid:
                del self._assumed[info.key]
        self.metrics.scheduled += 1
        self._events.event(info.pod, events.NORMAL, "Scheduled", f"Successfully assigned {info.key} to {node}")

    def _binding_failed(self, pod: QueuedPod, node: str, error: Exception) -> None:
        """Give the room back; try again if the pod still wants a node."""
        self.metrics.failed += 1
        info = pod.info
        log.info("binding %s to %s failed: %s", info.key, node, error)
        current = self._pods.get(info.key)
        same = current is not None and objects.uid(current) == info.uid
        if same and current is not None and current.spec and current.spec.nodeName:
            return  # somebody else was faster, and the informer has told us where it is
        placed = self.snapshot.placements.get(info.key)
        if placed is not None and placed.info.uid == info.uid:
            self.snapshot.remove(info.key)
            self.queue.move_all()
        if same and current is not None and self._wants_node(current):
            fresh = self._info(current)
            if fresh is not None:
                self.queue.retry(QueuedPod(fresh, pod.order, pod.attempts))
            self._events.event(current, events.WARNING, "FailedScheduling", f"binding rejected: {error}")

    async def _tell_failure(self, info: PodInfo, reason: str, message: str) -> None:
        """Set the condition PodScheduled=False and record an event, as kubectl describe shows them."""
        self._events.event(info.pod, events.WARNING, "FailedScheduling", message)
        current = self._pods.get(info.key)
        if current is None or objects.uid(current) != info.uid:
            return
        known = objects.condition(current.status.conditions if current.status else (), "PodScheduled")
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        if known is not None and known.status == "False":
            if (known.reason, known.message) == (reason, message):
                return
        else:
            condition["lastTransitionTime"] = times.now_rfc3339(self._clock)
        namespace, name = objects.split_key(info.key)
        patch = {"metadata": {"uid": info.uid}, "status": {"conditions": [condition]}}
        try:
            async with self._writes:
                await self._client.patch(
                    core_v1.Pod,
                    name,
                    patch,
                    namespace=namespace,
                    subresource="status",
                    patch_type=PatchType.STRATEGIC,
                )
        except (ApiError, ConnectionError, TimeoutError) as error:
            # the event tells it too, and the next attempt writes it again
            log.info("cannot tell that %s is unschedulable: %s", info.key, error)

    # --- what the informers tell -----------------------------------------------------------------------------------

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

    def _info(self, pod: core_v1.Pod) -> PodInfo | None:
        try:
            return pod_info(pod)
        except (KtoolError, ValueError, AssertionError) as error:
            # the API validates pods; should one slip through, it must not stop the informer for everybody
            log.error("pod %s cannot be understood: %s", objects.key(pod), error)
            return None

    def _namespace_changed(self, delta: Delta[core_v1.Namespace]) -> None:
        labels = None if delta.type == DELETED else delta.object.metadata.labels
        if self.snapshot.set_namespace(objects.name(delta.object), labels):
            self.queue.move_dependents()

    def _node_changed(self, delta: Delta[core_v1.Node]) -> None:
        if delta.type == DELETED:
            changed = self.snapshot.remove_node(objects.name(delta.object))
        else:
            changed = self.snapshot.set_node(delta.object)
        if changed:
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
            self._bound(delta, key, node)
        elif not self._wants_node(pod):
            self.queue.remove(key)
        elif self._assumed.get(key) != objects.uid(pod) and _matters(delta):
            info = self._info(pod)
            if info is not None:
                self.queue.add(info)

    def _bound(self, delta: Delta[core_v1.Pod], key: str, node: str) -> None:
        """A pod has a node: by our binding, by another's, or from the start."""
        self.queue.remove(key)
        placed = self.snapshot.placements.get(key)
        if placed is not None and placed.node == node and not _matters(delta):
            return  # a change of status only, of which there are many
        info = self._info(delta.object)
        if info is not None and self.snapshot.place(info, node):
            self.queue.move_dependents()


def _matters(delta: Delta[core_v1.Pod]) -> bool:
    """Whether scheduling looks at what changed: a status alone does not count (we write it ourselves)."""
    old, new = delta.old, delta.object
    return (
        old is None
        or old.spec != new.spec
        or old.metadata.labels != new.metadata.labels
        or objects.is_deleting(old) != objects.is_deleting(new)
    )
