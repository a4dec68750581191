"""ReplicaSets: as many pods of a template as the spec says (Kubernetes: replicaset-controller).

Watches ReplicaSets and Pods; a pod's event becomes the key of the ReplicaSet that owns it, or of all that may adopt
it. Decisions are in `replica_set_plan`; here they are carried out, guarded by expectations against a stale cache.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from control.controllers import controller_ref, pod_state, replica_set_plan
from control.controllers.controller import Context, Controller, run_all
from control.controllers.expectations import Expectations
from control.controllers.replica_set_plan import Observed
from kube import objects
from kube.events import NORMAL, WARNING
from kube.informer import ADDED, DELETED, Delta
from kube.models import apps_v1, core_v1
from kube.selector import from_label_selector
from kube.status import ApiError, Reason, is_not_found

FAILED_CREATE = "FailedCreate"
FAILED_DELETE = "FailedDelete"
# Pods of one ReplicaSet start and become ready in bursts: count them once for several changes.
BATCH_SECONDS = 0.01


class ReplicaSetController(Controller):
    """Keeps each ReplicaSet at its number of pods."""

    name: ClassVar[str] = "replicaset-controller"
    workers: ClassVar[int] = 5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.expectations = Expectations(self.clock)
        self._sets = self.watch(
            apps_v1.ReplicaSet,
            self._on_replica_set,
            indexers={
                controller_ref.CONTROLLER_INDEX: controller_ref.by_controller,
                controller_ref.NAMESPACE_INDEX: controller_ref.by_namespace,
            },
        )
        self._pods = self.watch(core_v1.Pod, self._on_pod, indexers=controller_ref.INDEXERS)

    def _on_replica_set(self, delta: Delta[apps_v1.ReplicaSet]) -> None:
        key = objects.key(delta.object)
        if delta.type == DELETED:
            # one that is made anew under the same name starts with a clean slate
            self.expectations.forget(key)
        self.queue.add(key)

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        pod = delta.object
        owner = self._owner_key(pod)
        before = self._owner_key(delta.old) if delta.old is not None else None
        if owner is not None:
            if delta.type == ADDED and not objects.is_deleting(pod):
                self.expectations.observe_creation(owner)
            if delta.type == DELETED or objects.is_deleting(pod):
                self.expectations.observe_deletion(owner, objects.uid(pod))
            if delta.old is None or delta.type == DELETED:
                self.queue.add(owner)
            elif replica_set_plan.has_changed(delta.old, pod):
                self.queue.add_after(owner, BATCH_SECONDS)
            self._look_again_when_available(owner, delta)
        if before is not None and before != owner:
            self.queue.add(before)
        if objects.controller_of(pod) is None and delta.type != DELETED:
            for replica_set in self._sets.by_index(controller_ref.NAMESPACE_INDEX, objects.namespace(pod)):
                selector = replica_set.spec.selector if replica_set.spec else None
                if from_label_selector(selector).matches(objects.meta(pod).labels):
                    self.queue.add(objects.key(replica_set))

    def _look_again_when_available(self, owner: str, delta: Delta[core_v1.Pod]) -> None:
        """A pod that just became ready becomes available without any further event."""
        if delta.old is None or pod_state.is_ready(delta.old) or not pod_state.is_ready(delta.object):
            return
        replica_set = self._sets.get(owner)
        seconds = replica_set_plan.min_ready_seconds(replica_set) if replica_set else 0
        if seconds:
            self.queue.add_after(owner, seconds + 0.01)

    def _owner_key(self, pod: core_v1.Pod) -> str | None:
        reference = objects.controller_of(pod)
        if reference is None or reference.kind != "ReplicaSet":
            return None
        return f"{objects.namespace(pod)}/{reference.name}"

    async def reconcile(self, key: str) -> float | None:
        replica_set = self._sets.get(key)
        if replica_set is None or replica_set.spec is None:
            self.expectations.forget(key)
            return None
        fresh = self.expectations.satisfied(key)
        observed = await self._observe(replica_set)
        failure: tuple[str, str] | None = None
        error: Exception | None = None
        if fresh and not objects.is_deleting(replica_set):
            failure, error = await self._apply(key, replica_set, replica_set_plan.plan(observed))
        await self._report(replica_set, observed, failure)
        if error is not None:
            raise error
        return replica_set_plan.next_available_in(observed)

    async def _observe(self, replica_set: apps_v1.ReplicaSet) -> Observed:
        assert replica_set.spec is not None
        selector = from_label_selector(replica_set.spec.selector)
        candidates = [
            *self._pods.by_index(controller_ref.CONTROLLER_INDEX, objects.uid(replica_set)),
            *self._pods.by_index(controller_ref.ORPHAN_INDEX, objects.namespace(replica_set)),
        ]
        pods = await controller_ref.claim(
            self.client, replica_set, selector, [pod for pod in candidates if pod_state.is_active(pod)]
        )
        wanted = replica_set_plan.wanted_replicas(replica_set)
        siblings = self._siblings(replica_set) if len(pods) > wanted else []
        return Observed(replica_set, pods, siblings, self.clock.time())

    def _siblings(self, replica_set: apps_v1.ReplicaSet) -> list[core_v1.Pod]:
        """Active pods of all ReplicaSets with the same owner: they say where the application is crowded."""
        owner = objects.controller_of(replica_set)
        related = (
            self._sets.by_index(controller_ref.CONTROLLER_INDEX, owner.uid) if owner and owner.uid else [replica_set]
        )
        uids = [objects.uid(found) for found in related]
        pods = [p for uid in uids for p in self._pods.by_index(controller_ref.CONTROLLER_INDEX, uid)]
        return [pod for pod in pods if pod_state.is_active(pod)]

    async def _apply(
        self, key: str, replica_set: apps_v1.ReplicaSet, plan: replica_set_plan.Plan
    ) -> tuple[tuple[str, str] | None, Exception | None]:
        """Carry a plan out; (reason, message) for the condition and the error, both None if all went well."""
        if plan.create:
            error = await self._create(key, replica_set, plan.create)
            return ((FAILED_CREATE, str(error)), error) if error else (None, None)
        if plan.delete:
            error = await self._delete(key, replica_set, plan.delete)
            return ((FAILED_DELETE, str(error)), error) if error else (None, None)
        return None, None

    async def _create(self, key: str, replica_set: apps_v1.ReplicaSet, count: int) -> Exception | None:
        self.expectations.expect(key, creations=count)
        pod = replica_set_plan.new_pod(replica_set)
        started = 0

        async def create_one() -> None:
            try:
                created = await self.client.create(pod)
            except ApiError as error:
                if error.reason == Reason.TIMEOUT:
                    # it may have been created all the same: its event will fulfil the expectation, or time will
                    return
                self.expectations.observe_creation(key)
                if not _is_terminating(error):
                    self.recorder.event(replica_set, WARNING, FAILED_CREATE, f"Error creating: {error}")
                raise
            except Exception:
                self.expectations.observe_creation(key)
                raise
            self.recorder.event(replica_set, NORMAL, "SuccessfulCreate", f"Created pod: {objects.name(created)}")

        for size in replica_set_plan.slow_start_batches(count):
            errors = await run_all([create_one] * size)
            started += size
            if errors:
                for _ in range(count - started):  # never tried
                    self.expectations.observe_creation(key)
                first = next(e for e in errors if isinstance(e, Exception))
                # nothing can be created in a namespace that is being deleted; its deletion ends this too
                return None if _is_terminating(first) else first
        return None

    async def _delete(
        self, key: str, replica_set: apps_v1.ReplicaSet, pods: tuple[core_v1.Pod, ...]
    ) -> Exception | None:
        self.expectations.expect(key, deletions=[objects.uid(pod) for pod in pods])

        async def delete_one(pod: core_v1.Pod) -> None:
            name = objects.name(pod)
            try:
                await self.client.delete(core_v1.Pod, name, namespace=objects.namespace(pod), uid=objects.uid(pod))
            except Exception as error:
                self.expectations.observe_deletion(key, objects.uid(pod))
                if is_not_found(error):
                    return
                self.recorder.event(replica_set, WARNING, FAILED_DELETE, f"Error deleting: {error}")
                raise
            self.recorder.event(replica_set, NORMAL, "SuccessfulDelete", f"Deleted pod: {name}")

        errors = await run_all(partial(delete_one, pod) for pod in pods)
        return next((e for e in errors if isinstance(e, Exception)), None)

    async def _report(
        self, replica_set: apps_v1.ReplicaSet, observed: Observed, failure: tuple[str, str] | None
    ) -> None:
        status = replica_set_plan.status(observed, failure)
        if _plain(status) == _plain(replica_set.status):
            return
        updated = apps_v1.ReplicaSet(metadata=replica_set.metadata, spec=replica_set.spec, status=status)
        try:
            await self.client.update(updated, subresource="status")
        except ApiError as error:
            if not is_not_found(error):
                raise


def _plain(status: apps_v1.ReplicaSetStatus | None) -> dict[str, object]:
    """A status for comparison: numbers that are absent on the wire are zero."""
    data = objects.to_dict(status or apps_v1.ReplicaSetStatus())
    return {name: value for name, value in data.items() if value}


def _is_terminating(error: BaseException) -> bool:
    """Whether creation was refused because the namespace is being deleted (cause NamespaceTerminating)."""
    return isinstance(error, ApiError) and any(c.get("reason") == "NamespaceTerminating" for c in error.causes)
