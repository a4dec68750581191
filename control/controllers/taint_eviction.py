"""Removes pods from nodes with NoExecute taints when their tolerations end (Kubernetes: taint-eviction-controller).

Watches Pods and Nodes; keys are pods. When a pod must go follows from the taint's timeAdded and the pod's
tolerationSeconds alone, so a restart of this controller neither shortens nor prolongs anybody's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from control.controllers import pod_state
from control.controllers.controller import Context, Controller
from control.controllers.node_health import NO_EXECUTE
from control.controllers.node_lifecycle import NODE_INDEX, by_node
from kube import objects, times
from kube.events import NORMAL
from kube.informer import DELETED, Delta
from kube.models import core_v1
from kube.status import ApiError, is_conflict, is_not_found

DISRUPTION_TARGET = "DisruptionTarget"


def no_execute_taints(node: core_v1.Node | None) -> list[core_v1.Taint]:
    """The node's taints that evict."""
    return [t for t in (node.spec.taints if node is not None and node.spec else []) if t.effect == NO_EXECUTE]


def tolerates(toleration: core_v1.Toleration, taint: core_v1.Taint) -> bool:
    """Whether a toleration covers a taint (empty effect: all effects; empty key with Exists: all keys)."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    operator = toleration.operator or "Equal"
    if operator == "Exists":
        return True
    return bool(toleration.key) and operator == "Equal" and (toleration.value or "") == (taint.value or "")


def evict_at(
    taints: Sequence[core_v1.Taint], tolerations: Sequence[core_v1.Toleration], *, first_seen: float
) -> float | None:
    """Moment (seconds since 1970) at which a pod with these tolerations must leave; None if it may stay for ever.

    A taint that nothing tolerates means at once. Of several tolerations of one taint the shortest counts, of several
    taints the earliest end. A taint without timeAdded counts from `first_seen`.
    """
    moments: list[float] = []
    for taint in taints:
        covering = [t for t in tolerations if tolerates(t, taint)]
        if not covering:
            return 0.0
        limits = [max(0, t.tolerationSeconds) for t in covering if t.tolerationSeconds is not None]
        if limits:
            since = times.parse(taint.timeAdded) if taint.timeAdded else first_seen
            moments.append(since + min(limits))
    return min(moments) if moments else None


def plan(pod: core_v1.Pod, node: core_v1.Node | None, *, now: float, first_seen: float) -> float | None:
    """Seconds until the pod must be evicted (0: now), or None if there is no reason to.

    `first_seen` is when the pod was first seen on the tainted node.
    """
    taints = no_execute_taints(node)
    if not taints or objects.is_deleting(pod) or pod_state.is_terminal(pod):
        return None
    moment = evict_at(taints, pod.spec.tolerations if pod.spec else [], first_seen=first_seen)
    return None if moment is None else max(0.0, moment - now)


class TaintEvictionController(Controller):
    """Deletes pods in time."""

    name: ClassVar[str] = "taint-eviction-controller"
    workers: ClassVar[int] = 4

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pods = self.watch(core_v1.Pod, self._on_pod, indexers={NODE_INDEX: by_node})
        self._nodes = self.watch(core_v1.Node, self._on_node)
        # without timeAdded on a taint the clock starts at our first look, not at each
        self._first_seen: dict[str, float] = {}

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        pod = delta.object
        if delta.type == DELETED:
            self._first_seen.pop(objects.uid(pod), None)
        elif no_execute_taints(self._nodes.get(pod_state.node_name(pod))):
            self.queue.add(objects.key(pod))

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        before, now = no_execute_taints(delta.old), no_execute_taints(delta.object)
        if delta.type != DELETED and before != now:
            for pod in self._pods.by_index(NODE_INDEX, objects.name(delta.object)):
                self.queue.add(objects.key(pod))

    async def reconcile(self, key: str) -> float | None:
        pod = self._pods.get(key)
        if pod is None:
            return None
        node = self._nodes.get(pod_state.node_name(pod))
        now, uid = self.clock.time(), objects.uid(pod)
        wait = plan(pod, node, now=now, first_seen=self._first_seen.setdefault(uid, now))
        if wait is None:
            self._first_seen.pop(uid, None)
            return None
        if wait > 0:
            return wait
        await self._evict(pod)
        return None

    async def _evict(self, pod: core_v1.Pod) -> None:
        namespace, name = objects.split_key(objects.key(pod))
        self.recorder.event(pod, NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {namespace}/{name}")
        condition = core_v1.PodCondition(
            type=DISRUPTION_TARGET,
            status="True",
            reason="DeletionByTaintManager",
            message="Taint manager: deleting due to NoExecute taint",
            lastTransitionTime=times.now_rfc3339(self.clock),
        )
        marked = objects.copy(pod)
        marked.status = marked.status or core_v1.PodStatus()
        marked.status.conditions = [c for c in marked.status.conditions if c.type != DISRUPTION_TARGET] + [condition]
        try:
            await self.client.update(marked, subresource="status")
        except ApiError as error:
            if is_not_found(error):
                return
            if not is_conflict(error):
                raise
            # a changed pod comes back through its event; if it did not, the mark is worth less than the eviction
        try:
            await self.client.delete(core_v1.Pod, name, namespace=namespace, uid=objects.uid(pod))
        except ApiError as error:
            if not is_not_found(error):
                raise
