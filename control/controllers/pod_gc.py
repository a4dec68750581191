"""Pods that nobody will ever clean up (Kubernetes: podgc).

Pods on nodes that no longer exist, pods that were deleted before any node had them, pods on nodes that were declared
out of service, and the oldest of more ended pods than anyone wants to keep. Watches Pods and Nodes; keys are pods, and
ENDED for the last case.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from control.controllers import pod_state
from control.controllers.controller import Context, Controller, raise_first, run_all
from control.controllers.node_lifecycle import NODE_INDEX, by_node
from kube import objects, times
from kube.informer import DELETED, Delta
from kube.models import core_v1
from kube.status import ApiError, is_not_found

# A node may vanish from the cache and come back (it registers anew after a mishap): its pods get this long.
QUARANTINE_SECONDS = 40.0
ENDED = "*ended"
ENDED_THRESHOLD = 12500
ENDED_BATCH_SECONDS = 5.0
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


def surplus(pods: Iterable[core_v1.Pod], threshold: int) -> list[core_v1.Pod]:
    """The oldest ended pods beyond `threshold`; none if it is 0 (no limit)."""
    ended = [pod for pod in pods if pod_state.is_terminal(pod)]
    if threshold <= 0 or len(ended) <= threshold:
        return []
    ended.sort(key=lambda pod: (pod.metadata.creationTimestamp or "", objects.name(pod)))
    return ended[: len(ended) - threshold]


def is_out_of_service(node: core_v1.Node) -> bool:
    """Whether an administrator declared that the node is off and will not run its pods (and it is not ready)."""
    ready = objects.condition(node.status.conditions if node.status else [], "Ready")
    off = ready is not None and ready.status != "True"
    return off and any(t.key == OUT_OF_SERVICE for t in (node.spec.taints if node.spec else []))


class PodGCController(Controller):
    """Force-deletes such pods."""

    name: ClassVar[str] = "pod-garbage-collector"
    workers: ClassVar[int] = 2

    def __init__(self, context: Context, *, ended_threshold: int = ENDED_THRESHOLD) -> None:
        super().__init__(context)
        self._threshold = ended_threshold
        self._missing: dict[str, float] = {}
        self._pods = self.watch(core_v1.Pod, self._on_pod, indexers={NODE_INDEX: by_node})
        self._nodes = self.watch(core_v1.Node, self._on_node)

    async def start(self) -> None:
        self._missing.clear()

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        pod = delta.object
        if delta.type == DELETED:
            return
        if pod_state.is_terminal(pod) and (delta.old is None or not pod_state.is_terminal(delta.old)):
            self.queue.add_after(ENDED, ENDED_BATCH_SECONDS)
        name = pod_state.node_name(pod)
        node = self._nodes.get(name)
        stopped = node is not None and is_out_of_service(node)
        if (name and node is None) or (objects.is_deleting(pod) and (not name or stopped)):
            self.queue.add(objects.key(pod))

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        name = objects.name(delta.object)
        if delta.type != DELETED:
            self._missing.pop(name, None)
            if not is_out_of_service(delta.object):
                return
        for pod in self._pods.by_index(NODE_INDEX, name):
            self.queue.add(objects.key(pod))

    async def reconcile(self, key: str) -> float | None:
        if key == ENDED:
            found = surplus(self._pods.list(), self._threshold)
            raise_first(await run_all(partial(self._delete, pod) for pod in found))
            return None
        pod = self._pods.get(key)
        if pod is None:
            return None
        name = pod_state.node_name(pod)
        if not name:
            if objects.is_deleting(pod):
                await self._delete(pod)
            return None
        node = self._nodes.get(name)
        if node is not None:
            if objects.is_deleting(pod) and is_out_of_service(node):
                await self._delete(pod)
            return None
        since = self._missing.setdefault(name, self.clock.monotonic())
        left = since + QUARANTINE_SECONDS - self.clock.monotonic()
        if left > 0:
            return left
        if await self._node_exists(name):
            return None
        await self._end(pod)
        await self._delete(pod)
        return None

    async def _node_exists(self, name: str) -> bool:
        try:
            await self.client.get(core_v1.Node, name)
        except ApiError as error:
            if is_not_found(error):
                return False
            raise
        return True

    async def _end(self, pod: core_v1.Pod) -> None:
        """Say that the pod has failed, and why, before it goes."""
        if pod_state.is_terminal(pod):
            return
        ended = objects.copy(pod)
        ended.status = ended.status or core_v1.PodStatus()
        ended.status.phase = "Failed"
        ended.status.conditions = [c for c in ended.status.conditions if c.type != "DisruptionTarget"]
        ended.status.conditions.append(
            core_v1.PodCondition(
                type="DisruptionTarget",
                status="True",
                reason="DeletionByPodGC",
                message="PodGC: node no longer exists",
                lastTransitionTime=times.now_rfc3339(self.clock),
            )
        )
        try:
            await self.client.update(ended, subresource="status")
        except ApiError as error:
            if not is_not_found(error):
                raise

    async def _delete(self, pod: core_v1.Pod) -> None:
        try:
            await self.client.delete(
                core_v1.Pod,
                objects.name(pod),
                namespace=objects.namespace(pod),
                uid=objects.uid(pod),
                grace_period_seconds=0,
            )
        except ApiError as error:
            if not is_not_found(error):
                raise
