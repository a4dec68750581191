"""Nodes that fall silent: conditions Unknown, taints, pods not ready (Kubernetes: node-lifecycle-controller).

Watches Nodes, their Leases in kube-node-lease, and Pods by node. A key is a node; while it lives, the controller only
looks at it when its grace period would end. Decisions are in `node_health`; removing pods is taint-eviction's job.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from control.controllers import node_health, pod_state
from control.controllers.controller import Context, Controller, raise_first, run_all
from control.controllers.node_health import SignOfLife, ZoneState
from control.controllers.rate_limit import TokenBucket
from kube import objects, times
from kube.events import NORMAL
from kube.informer import DELETED, Delta
from kube.models import coordination_v1, core_v1
from kube.status import ApiError, is_not_found

LEASE_NAMESPACE = "kube-node-lease"
NODE_INDEX = "node"
# Nodes that are lost together are not noticed in the same moment: before anybody is evicted, let the others show up,
# so that the loss of everything is seen as that.
SETTLE_SECONDS = 5.0


def by_node(pod: core_v1.Pod) -> list[str]:
    """Indexer: name of the node that a pod is bound to."""
    name = pod_state.node_name(pod)
    return [name] if name else []


class NodeLifecycleController(Controller):
    """Watches over nodes' signs of life. One worker: the zones' states must be seen as a whole."""

    name: ClassVar[str] = "node-controller"
    workers: ClassVar[int] = 1

    def __init__(
        self,
        context: Context,
        *,
        grace_seconds: float = node_health.GRACE_SECONDS,
        startup_grace_seconds: float = node_health.STARTUP_GRACE_SECONDS,
    ) -> None:
        super().__init__(context)
        self._grace = grace_seconds
        self._startup_grace = startup_grace_seconds
        self._signs: dict[str, SignOfLife] = {}
        self._limits: dict[str, TokenBucket] = {}
        self._all_lost = False
        self._nodes = self.watch(core_v1.Node, self._on_node)
        self._leases = self.watch(coordination_v1.Lease, self._on_lease, namespace=LEASE_NAMESPACE)
        self._pods = self.watch(core_v1.Pod, self._on_pod, indexers={NODE_INDEX: by_node})

    async def start(self) -> None:
        # What was heard before this controller ran (or led) says nothing about now: everybody gets a full grace period.
        self._signs.clear()
        self._limits.clear()
        self._all_lost = False

    def _on_node(self, delta: Delta[core_v1.Node]) -> None:
        name = objects.name(delta.object)
        if delta.type == DELETED:
            self._signs.pop(name, None)
        else:
            self._hear(delta.object)
        self.queue.add(name)

    def _on_lease(self, delta: Delta[coordination_v1.Lease]) -> None:
        name = objects.name(delta.object)
        node = self._nodes.get(name)
        if node is None:
            return
        silent = self._is_silent(node)
        self._hear(node)
        if silent:
            self.queue.add(name)

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        """A pod that became ready, or was bound, on a node that is lost."""
        if delta.type == DELETED or not pod_state.is_ready(delta.object):
            return
        node = self._nodes.get(pod_state.node_name(delta.object))
        ready = node_health.ready_condition(node) if node is not None else None
        if node is not None and ready is not None and ready.status == "Unknown":
            self.queue.add(objects.name(node))

    def _hear(self, node: core_v1.Node) -> None:
        name = objects.name(node)
        lease = self._leases.get(f"{LEASE_NAMESPACE}/{name}")
        renewed = lease.spec.renewTime if lease is not None and lease.spec is not None else None
        self._signs[name] = node_health.sign_of_life(node, renewed, self._signs.get(name), now=self.clock.monotonic())

    def _silent_in(self, node: core_v1.Node) -> float:
        """Seconds until the node counts as silent; 0 or less if it does."""
        sign = self._signs[objects.name(node)]
        # a node that has just been registered may take longer to post its first status
        grace = self._startup_grace if node_health.ready_condition(node) is None else self._grace
        return sign.seen + grace - self.clock.monotonic()

    def _is_silent(self, node: core_v1.Node) -> bool:
        return objects.name(node) in self._signs and self._silent_in(node) <= 0

    async def reconcile(self, key: str) -> float | None:
        node = self._nodes.get(key)
        if node is None:
            self._look_at_zones()
            return None
        if key not in self._signs:
            self._hear(node)
        again = self._silent_in(node)
        if again <= 0:
            node = await self._report_silence(node)
        self._look_at_zones(node)
        wait = await self._taint(node)
        ready = node_health.ready_condition(node)
        if ready is not None and ready.status == "Unknown":
            # a kubelet that is alive and reports trouble knows its pods better than we do
            await self._mark_pods(key)
        waits = [w for w in (again if again > 0 else None, wait) if w is not None]
        return min(waits) if waits else None

    async def _report_silence(self, node: core_v1.Node) -> core_v1.Node:
        conditions = node_health.silent_conditions(node, now=self.clock.time())
        if conditions is None:
            return node
        status = msgspec.structs.replace(node.status or core_v1.NodeStatus(), conditions=conditions)
        updated = await self.client.update(msgspec.structs.replace(node, status=status), subresource="status")
        name = objects.name(node)
        self.recorder.event(node, NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        return updated

    def _look_at_zones(self, fresh: core_v1.Node | None = None) -> None:
        """Notice when everything seems lost, and when it is over; then all nodes are looked at again."""
        nodes = {objects.name(n): n for n in self._nodes.list()}
        if fresh is not None:
            nodes[objects.name(fresh)] = fresh
        lost = node_health.all_lost(node_health.zone_states(nodes.values()))
        if lost == self._all_lost:
            return
        self._all_lost = lost
        if not lost:
            # The master was cut off, not the nodes: nobody's silence so far counts.
            now = self.clock.monotonic()
            self._signs = {name: replace(sign, seen=now) for name, sign in self._signs.items()}
        for name in nodes:
            self.queue.add(name)

    async def _taint(self, node: core_v1.Node) -> float | None:
        """Write the node's taints; seconds to wait if NoExecute must wait for its turn."""
        wait: float | None = None
        evict = node_health.has_no_execute(node) and not self._all_lost
        if not node_health.is_ready(node) and not evict and not self._all_lost:
            wait = self._turn(node)
            evict = wait is None
        taints = node_health.taints(node, evict=evict, now=self.clock.time())
        if taints is not None:
            spec = msgspec.structs.replace(node.spec or core_v1.NodeSpec(), taints=taints)
            await self.client.update(msgspec.structs.replace(node, spec=spec))
        return wait

    def _turn(self, node: core_v1.Node) -> float | None:
        """None if this node may be tainted for eviction now, else seconds until it may be worth asking again."""
        ready = node_health.ready_condition(node)
        if ready is None:
            return None
        if ready.lastTransitionTime:
            early = times.parse(ready.lastTransitionTime) + SETTLE_SECONDS - self.clock.time()
            if early > 0:
                return early
        nodes = self._nodes.list()
        zone = node_health.zone_of(node)
        members = [n for n in nodes if node_health.zone_of(n) == zone]
        state = node_health.zone_states(members).get(zone, ZoneState.NORMAL)
        bucket = self._limits.setdefault(zone, TokenBucket(self.clock, burst=1))
        bucket.rate = node_health.eviction_rate(state, len(members))
        return bucket.take()

    async def _mark_pods(self, name: str) -> None:
        """Pods of a lost node get no traffic any more: their Ready becomes False."""
        now = self.clock.time()
        found = []
        for pod in self._pods.by_index(NODE_INDEX, name):
            conditions = node_health.not_ready_conditions(pod, now=now)
            if conditions is not None and pod.status is not None:
                status = msgspec.structs.replace(pod.status, conditions=conditions)
                found.append(msgspec.structs.replace(pod, status=status))

        async def mark(pod: core_v1.Pod) -> None:
            try:
                await self.client.update(pod, subresource="status")
            except ApiError as error:
                if not is_not_found(error):
                    raise

        raise_first(await run_all(partial(mark, pod) for pod in found))
