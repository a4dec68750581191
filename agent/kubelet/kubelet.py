"""The kubelet: one node's pods, from the API to the runtime and back.

It composes: an informer of the pods bound to this node, a worker for each pod, the runtime's events, the node's own
object, and the writers of statuses and events. At its start it adopts what runs: containers are found by their
labels; pods that the API no longer has are stopped, but only when a master has truly answered, for an empty answer
from nobody must not stop everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agent.kubelet.admission import admit
from agent.kubelet.context import KubeletContext
from agent.kubelet.node import NodeKeeper
from agent.kubelet.observation import GRACE_PERIOD, by_pod
from agent.kubelet.pod_worker import PodWorker
from agent.kubelet.references import pod_names
from agent.kubelet.situation import DEFAULT_GRACE_SECONDS, TERMINAL, End
from agent.runtime.runtime import (
    LABEL_POD_NAME,
    LABEL_POD_NAMESPACE,
    LABEL_POD_UID,
    Container,
    ContainerRuntimeError,
    ContainerStatus,
    EventType,
    Sandbox,
)
from kube import objects, times
from kube.client import Client
from kube.events import WARNING
from kube.informer import DELETED, Delta, Informer
from kube.models import core_v1, meta_v1

RELIST_SECONDS = 120.0
RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Kubelet:
    """The pods of one node. `pods` is an informer with the field selector `spec.nodeName=<node>`."""

    def __init__(
        self,
        node_name: str,
        client: Client,
        context: KubeletContext,
        keeper: NodeKeeper,
        pods: Informer[core_v1.Pod],
    ) -> None:
        self.node_name = node_name
        self.client = client
        self.context = context
        self._keeper = keeper
        self._informer = pods
        self._workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None

    # --- what others ask (the kubelet's server, stats)

    def pods(self) -> list[core_v1.Pod]:
        """The node's pods, with the statuses that their workers report."""
        return [worker.pod for worker, _ in self._workers.values()]

    def pod(self, namespace: str, name: str) -> core_v1.Pod | None:
        """One of the node's pods; the one not being deleted, should two have the same name."""
        found = [worker.pod for worker in self._named(namespace, name)]
        return min(found, key=objects.is_deleting, default=None)

    def container(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> ContainerStatus | None:
        """The newest attempt of a container, or the one before it; None if the node has none."""
        for worker in sorted(self._named(namespace, pod), key=lambda w: objects.is_deleting(w.pod)):
            attempts = worker.observed.attempts(container)
            if len(attempts) > int(previous):
                return attempts[int(previous)]
        return None

    def _named(self, namespace: str, name: str) -> list[PodWorker]:
        workers = [worker for worker, _ in self._workers.values()]
        return [w for w in workers if objects.name(w.pod) == name and objects.namespace(w.pod) == namespace]

    # --- work

    async def run(self) -> None:
        """Work until cancelled; pods run on then."""
        context = self.context
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._keeper.run(), name="node")
            group.create_task(context.recorder.run(), name="events")
            group.create_task(context.statuses.run(), name="pod-statuses")
            await self._prepare_network()
            while not self._informer.synced:
                try:
                    await self._informer.wait_synced(60.0)
                except TimeoutError:
                    log.warning("no list of this node's pods yet: is the master reachable?")
            await self._adopt()
            self._informer.add_handler(self._changed)
            self._remove_gone()
            group.create_task(self._runtime_events(), name="runtime-events")
            group.create_task(self._relist_loop(), name="relist")

    async def _prepare_network(self) -> None:
        """Give the runtime the node's pod CIDR, as soon as both are there."""
        cidr = await self._keeper.pod_cidr()
        while True:
            try:
                await self.context.runtime.update_runtime_config(cidr)
            except ContainerRuntimeError as error:
                log.warning("the pods' network cannot be prepared: %s", error)
                self.context.recorder.event(self._keeper.reference(), WARNING, "NetworkNotReady", str(error))
                await self.context.clock.sleep(RETRY_SECONDS)
            else:
                log.info("pods of this node have addresses of %s", cidr)
                self._keeper.report_soon()
                return

    async def _adopt(self) -> None:
        """Start workers for what runs already and what the API wants, the oldest pods first."""
        running = await self._list_runtime()
        pods = sorted(self._informer.list(), key=lambda pod: pod.metadata.creationTimestamp or "")
        for pod in pods:
            self._dispatch(pod, runs=objects.uid(pod) in running)
        self._remove_orphans(running)
        try:
            gone = await self.context.volumes.remove_orphans({*self._workers})
        except OSError as error:
            log.warning("volumes of pods that are no more cannot be removed: %s", error)
        else:
            if gone:
                log.info("removed what %d pods that are no more had left in volumes", len(gone))

    async def _list_runtime(self) -> Mapping[str, list[Container | Sandbox]]:
        """What the runtime has, by pod; tries until it answers."""
        while True:
            try:
                containers = await self.context.runtime.list_containers()
                sandboxes = await self.context.runtime.list_sandboxes()
                return by_pod([*containers, *sandboxes])
            except ContainerRuntimeError as error:
                log.warning("the runtime does not answer: %s", error)
                await self.context.clock.sleep(RETRY_SECONDS)

    def _changed(self, delta: Delta[core_v1.Pod]) -> None:
        uid = objects.uid(delta.object)
        known = self._workers.get(uid)
        if delta.type == DELETED:
            self.context.statuses.forget(uid)
            if known is not None:
                known[0].remove(delta.object)
            self._forget_references()
            return
        self.context.statuses.observe(delta.object)
        if known is not None:
            known[0].update(delta.object)
        else:
            self._dispatch(delta.object, runs=False)

    def _dispatch(self, pod: core_v1.Pod, *, runs: bool) -> None:
        """A worker for a pod of the API; `runs`: the runtime has something of it, so it was admitted before."""
        uid = objects.uid(pod)
        if uid in self._workers:
            return
        self.context.statuses.observe(pod)
        started = pod.status is not None and (pod.status.startTime or pod.status.phase in TERMINAL)
        rejected: End | None = None
        if not runs and not started and not objects.is_deleting(pod):
            refusal = admit(pod, self._active(), allocatable=self._keeper.allocatable, node=self._keeper.node)
            if refusal is not None:
                self.context.recorder.event(pod, WARNING, refusal.reason, refusal.message)
                rejected = End(refusal.reason, refusal.message)
        self._start(PodWorker(self.context, pod, rejected=rejected))

    def _active(self) -> list[core_v1.Pod]:
        """Pods that hold resources of this node."""
        pods = [worker.pod for worker, _ in self._workers.values() if not worker.rejected]
        return [pod for pod in pods if pod.spec and not (pod.status and pod.status.phase in TERMINAL)]

    def _start(self, worker: PodWorker) -> None:
        assert self._group is not None
        task = self._group.create_task(worker.run(), name=f"pod-{objects.key(worker.pod)}")
        self._workers[worker.uid] = (worker, task)
        task.add_done_callback(lambda _: self._workers.pop(worker.uid, None))

    def _remove_orphans(self, running: Mapping[str, list[Container | Sandbox]]) -> None:
        """Stop what the runtime has of pods that the API does not have."""
        known = {objects.uid(pod) for pod in self._informer.list()}
        for uid, things in running.items():
            if uid in known or uid in self._workers:
                continue
            log.info("pod %s is no more: removing what is left of it", _name(things[0]))
            self._start(PodWorker(self.context, orphan(uid, things, now=self.context.clock.time()), known=False))

    async def _runtime_events(self) -> None:
        async for event in self.context.runtime.events():
            log.debug("runtime event %s of %s", event.type, event.container_id[:12])
            if event.type is EventType.RELIST:
                for worker, _ in self._workers.values():
                    worker.runtime_changed()
                self._keeper.report_soon()
                continue
            known = self._workers.get(event.labels.get(LABEL_POD_UID, ""))
            if known is not None:
                known[0].runtime_event(event)

    async def _relist_loop(self) -> None:
        """The safety net: whatever event was lost, it is found out here."""
        while True:
            await self.context.clock.sleep(RELIST_SECONDS)
            running = await self._list_runtime()
            for pod in self._informer.list():
                self._dispatch(pod, runs=objects.uid(pod) in running)
            self._remove_orphans(running)
            self._remove_gone()
            for worker, _ in self._workers.values():
                worker.runtime_changed()

    def _remove_gone(self) -> None:
        """Stop pods that disappeared from the API while nobody was told of it: during adoption."""
        known = {objects.uid(pod) for pod in self._informer.list()}
        for uid, (worker, _) in self._workers.items():
            if uid not in known:
                worker.remove(worker.pod)

    def _forget_references(self) -> None:
        wanted = {(objects.namespace(pod), name) for pod in self._informer.list() for name in pod_names(pod)}
        self.context.references.keep_only(wanted)


def orphan(uid: str, things: list[Container | Sandbox], *, now: float) -> core_v1.Pod:
    """A pod that the API does not have, made up from its containers' labels, to be taken down in its own time."""
    labels = things[0].labels
    grace = next((t.annotations[GRACE_PERIOD] for t in things if GRACE_PERIOD in t.annotations), "")
    return core_v1.Pod(
        metadata=meta_v1.ObjectMeta(
            name=labels.get(LABEL_POD_NAME),
            namespace=labels.get(LABEL_POD_NAMESPACE),
            uid=uid,
            deletionTimestamp=times.rfc3339(now),
            deletionGracePeriodSeconds=int(grace) if grace.isdigit() else DEFAULT_GRACE_SECONDS,
        ),
        spec=core_v1.PodSpec(),
    )


def _name(thing: Container | Sandbox) -> str:
    return f"{thing.labels.get(LABEL_POD_NAMESPACE)}/{thing.labels.get(LABEL_POD_NAME)}"
