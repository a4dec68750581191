"""Deployments: rolling updates of pod templates by way of ReplicaSets (Kubernetes: deployment-controller).

Watches Deployments, ReplicaSets (to the Deployment that owns them, or may adopt them) and Pods (deletions only: the
strategy Recreate waits for the last old pod). Decisions are in `deployment_plan`; here they are carried out, each write
guarded by the resourceVersion that the decision was based on.
"""

from __future__ import annotations

from typing import ClassVar

from control.controllers import controller_ref, deployment_revision, deployment_size, deployment_status
from control.controllers.controller import Context, Controller, StaleCacheError
from control.controllers.deployment_plan import (
    Action,
    CreateReplicaSet,
    DeleteReplicaSet,
    Observed,
    SetRevision,
    UpdateReplicaSet,
    plan,
)
from kube import objects
from kube.events import NORMAL, WARNING
from kube.informer import DELETED, Delta
from kube.models import apps_v1, core_v1
from kube.selector import from_label_selector
from kube.status import ApiError, is_already_exists, is_not_found


class DeploymentController(Controller):
    """Brings each Deployment's pods to its present template."""

    name: ClassVar[str] = "deployment-controller"
    workers: ClassVar[int] = 5

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._deployments = self.watch(
            apps_v1.Deployment,
            self._on_deployment,
            indexers={controller_ref.NAMESPACE_INDEX: controller_ref.by_namespace},
        )
        self._sets = self.watch(apps_v1.ReplicaSet, self._on_replica_set, indexers=controller_ref.INDEXERS)
        self._pods = self.watch(core_v1.Pod, self._on_pod, indexers=controller_ref.INDEXERS)

    def _on_deployment(self, delta: Delta[apps_v1.Deployment]) -> None:
        self.queue.add(objects.key(delta.object))

    def _on_replica_set(self, delta: Delta[apps_v1.ReplicaSet]) -> None:
        for replica_set in (delta.object, delta.old):
            owner = self._owner_key(replica_set) if replica_set is not None else None
            if owner is not None:
                self.queue.add(owner)
        if objects.controller_of(delta.object) is None and delta.type != DELETED:
            namespace = objects.namespace(delta.object)
            for deployment in self._deployments.by_index(controller_ref.NAMESPACE_INDEX, namespace):
                selector = from_label_selector(deployment.spec.selector if deployment.spec else None)
                if selector.matches(objects.meta(delta.object).labels):
                    self.queue.add(objects.key(deployment))

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        if delta.type != DELETED:
            return
        reference = objects.controller_of(delta.object)
        if reference is None or reference.kind != "ReplicaSet":
            return
        replica_set = self._sets.get(f"{objects.namespace(delta.object)}/{reference.name}")
        owner = self._owner_key(replica_set) if replica_set is not None else None
        deployment = self._deployments.get(owner) if owner else None
        if owner and deployment is not None and not deployment_size.is_rolling(deployment):
            self.queue.add(owner)

    def _owner_key(self, replica_set: apps_v1.ReplicaSet) -> str | None:
        reference = objects.controller_of(replica_set)
        if reference is None or reference.kind != "Deployment":
            return None
        return f"{objects.namespace(replica_set)}/{reference.name}"

    async def reconcile(self, key: str) -> float | None:
        deployment = self._deployments.get(key)
        if deployment is None or deployment.spec is None or deployment.spec.template is None:
            return None
        selector = from_label_selector(deployment.spec.selector)
        if selector.everything:
            message = "This deployment is selecting all pods. A non-empty selector is required."
            self.recorder.event(deployment, WARNING, "SelectingAll", message)
            return None
        candidates = [
            *self._sets.by_index(controller_ref.CONTROLLER_INDEX, objects.uid(deployment)),
            *self._sets.by_index(controller_ref.ORPHAN_INDEX, objects.namespace(deployment)),
        ]
        owned = await controller_ref.claim(self.client, deployment, selector, candidates)
        pods = {}
        if not deployment_size.is_rolling(deployment):
            uids = [objects.uid(rs) for rs in owned]
            pods = {uid: self._pods.by_index(controller_ref.CONTROLLER_INDEX, uid) for uid in uids}
        planned = plan(Observed(deployment, owned, pods, self.clock.time()))
        for action in planned.actions:
            deployment = await self._carry_out(deployment, action)
        await self._report(deployment, planned.status)
        return planned.again

    async def _carry_out(self, deployment: apps_v1.Deployment, action: Action) -> apps_v1.Deployment:
        """Do one action; the Deployment as it is afterwards."""
        match action:
            case CreateReplicaSet(replica_set):
                await self._create(deployment, replica_set)
            case UpdateReplicaSet(before, after):
                await self.client.update(after)
                self._tell_scaling(deployment, after, deployment_size.wanted(before), deployment_size.wanted(after))
            case DeleteReplicaSet(replica_set):
                await self._delete(replica_set)
            case SetRevision(revision):
                return await self._set_revision(deployment, revision)
        return deployment

    async def _create(self, deployment: apps_v1.Deployment, replica_set: apps_v1.ReplicaSet) -> None:
        try:
            await self.client.create(replica_set)
        except ApiError as error:
            if is_already_exists(error):
                await self._resolve_collision(deployment, replica_set, error)
                return
            await self._report_create_error(deployment, replica_set, error)
            raise
        self._tell_scaling(deployment, replica_set, 0, deployment_size.wanted(replica_set))

    async def _resolve_collision(
        self, deployment: apps_v1.Deployment, replica_set: apps_v1.ReplicaSet, error: ApiError
    ) -> None:
        """The name is taken: by our own ReplicaSet that the cache does not show yet, or by another of the same hash."""
        name, namespace = objects.name(replica_set), objects.namespace(replica_set)
        try:
            live = await self.client.get(apps_v1.ReplicaSet, name, namespace=namespace)
        except ApiError as gone:
            if is_not_found(gone):
                raise StaleCacheError(f"replica set {name} was just deleted") from error
            raise
        owner = objects.controller_of(live)
        assert live.spec is not None
        assert replica_set.spec is not None
        if (
            owner is not None
            and owner.uid == objects.uid(deployment)
            and deployment_revision.same_template(live.spec.template, replica_set.spec.template)
        ):
            raise StaleCacheError(f"replica set {name} exists already") from error
        status = objects.copy(deployment.status) if deployment.status else apps_v1.DeploymentStatus()
        status.collisionCount = (status.collisionCount or 0) + 1
        await self._report(deployment, status)
        # with the new count the next attempt has another name
        raise StaleCacheError(f"the name {name} is taken, collision count is now {status.collisionCount}") from error

    async def _report_create_error(
        self, deployment: apps_v1.Deployment, replica_set: apps_v1.ReplicaSet, error: ApiError
    ) -> None:
        message = f'Failed to create new replica set "{objects.name(replica_set)}": {error}'
        self.recorder.event(deployment, WARNING, deployment_status.CREATE_ERROR, message)
        if deployment_status.progress_deadline(deployment) is None:
            return
        status = objects.copy(deployment.status) if deployment.status else apps_v1.DeploymentStatus()
        fresh = deployment_status.make_condition(
            deployment_status.PROGRESSING,
            "False",
            deployment_status.CREATE_ERROR,
            message,
            now=self.clock.time(),
        )
        status.conditions = deployment_status.with_condition(status.conditions, fresh)
        await self._report(deployment, status)

    async def _delete(self, replica_set: apps_v1.ReplicaSet) -> None:
        meta = objects.meta(replica_set)
        try:
            await self.client.delete(
                apps_v1.ReplicaSet,
                meta.name or "",
                namespace=meta.namespace or "",
                uid=meta.uid or "",
                # it was empty in this version; a newer one may not be
                resource_version=meta.resourceVersion or "",
            )
        except ApiError as error:
            if not is_not_found(error):
                raise

    async def _set_revision(self, deployment: apps_v1.Deployment, revision: str) -> apps_v1.Deployment:
        meta = objects.meta(deployment)
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": meta.resourceVersion,
                "annotations": {deployment_revision.REVISION: revision},
            }
        }
        return await self.client.patch(apps_v1.Deployment, meta.name or "", patch, namespace=meta.namespace or "")

    async def _report(self, deployment: apps_v1.Deployment, status: apps_v1.DeploymentStatus) -> None:
        if _plain(status) == _plain(deployment.status):
            return
        updated = apps_v1.Deployment(metadata=deployment.metadata, spec=deployment.spec, status=status)
        try:
            await self.client.update(updated, subresource="status")
        except ApiError as error:
            if not is_not_found(error):
                raise

    def _tell_scaling(
        self, deployment: apps_v1.Deployment, replica_set: apps_v1.ReplicaSet, before: int, after: int
    ) -> None:
        if before == after:
            return
        direction = "up" if after > before else "down"
        message = f"Scaled {direction} replica set {objects.name(replica_set)} from {before} to {after}"
        self.recorder.event(deployment, NORMAL, "ScalingReplicaSet", message)


def _plain(status: apps_v1.DeploymentStatus | None) -> dict[str, object]:
    """A status for comparison: numbers that are absent on the wire are zero."""
    data = objects.to_dict(status or apps_v1.DeploymentStatus())
    return {name: value for name, value in data.items() if value}
