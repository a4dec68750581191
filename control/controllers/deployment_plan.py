"""What a Deployment does next to its ReplicaSets, and the status to report. Pure.

A rollout is many small steps: each plan makes one (scale the new ReplicaSet up, or the old ones down), and what comes
of it (pods becoming available) leads to the next. Never more than replicas + maxSurge pods are wanted, and old pods
are taken away only as far as replicas - maxUnavailable stay available.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from control.controllers import deployment_revision as revisions
from control.controllers import deployment_size as size
from control.controllers import deployment_status as conditions
from control.controllers import pod_state
from kube import objects
from kube.models import apps_v1, core_v1


class Observed(Struct, frozen=True):
    """A Deployment, the ReplicaSets that it controls, their pods by ReplicaSet's uid (for Recreate), the time."""

    deployment: apps_v1.Deployment
    replica_sets: Sequence[apps_v1.ReplicaSet]
    pods: Mapping[str, Sequence[core_v1.Pod]]
    now: float


class CreateReplicaSet(Struct, frozen=True):
    """Create the ReplicaSet of the present template."""

    replica_set: apps_v1.ReplicaSet


class UpdateReplicaSet(Struct, frozen=True):
    """Write a ReplicaSet (size, annotations, minReadySeconds) over the state that `before` shows."""

    before: apps_v1.ReplicaSet
    after: apps_v1.ReplicaSet


class DeleteReplicaSet(Struct, frozen=True):
    """Delete an old ReplicaSet beyond the revision history limit."""

    replica_set: apps_v1.ReplicaSet


class SetRevision(Struct, frozen=True):
    """Write the revision annotation of the Deployment."""

    revision: str


Action = CreateReplicaSet | UpdateReplicaSet | DeleteReplicaSet | SetRevision


class Plan(Struct, frozen=True):
    """Actions in order, the status to write after them, seconds until the progress deadline must be looked at."""

    actions: tuple[Action, ...]
    status: apps_v1.DeploymentStatus
    again: float | None = None


def plan(observed: Observed) -> Plan:
    """One step for a Deployment. Raises PercentError for a malformed maxSurge or maxUnavailable."""
    return _Step(observed).plan()


class _Step:
    """Works on drafts of the ReplicaSets; what differs in the end from what was observed becomes actions."""

    def __init__(self, observed: Observed) -> None:
        self.deployment = observed.deployment
        self.pods = observed.pods
        self.now = observed.now
        self.observed = {objects.name(rs): rs for rs in observed.replica_sets}
        self.drafts = {objects.name(rs): rs for rs in revisions.by_age(observed.replica_sets)}
        found = revisions.find_new(observed.deployment, observed.replica_sets)
        self.new_name = objects.name(found) if found is not None else ""
        self.deletes: list[apps_v1.ReplicaSet] = []
        self.revision: str | None = None
        self.conditions = conditions.paused_conditions(observed.deployment, observed.now)

    @property
    def new(self) -> apps_v1.ReplicaSet | None:
        return self.drafts.get(self.new_name)

    @property
    def old(self) -> list[apps_v1.ReplicaSet]:
        """All ReplicaSets of earlier templates, oldest first."""
        return [rs for name, rs in self.drafts.items() if name != self.new_name]

    @property
    def all(self) -> list[apps_v1.ReplicaSet]:
        return [*self.drafts.values()]

    def plan(self) -> Plan:
        deployment = self.deployment
        assert deployment.spec is not None
        if objects.is_deleting(deployment):
            return self._counted()
        if deployment.spec.paused:
            self._sync_new()
            self._scale()
            self._clean_up()
            return self._counted()
        # Recreate needs no such step: all old pods go before the new size is made.
        if size.is_rolling(deployment) and self._is_scaling():
            self._sync_new()
            self._scale()
            return self._counted()
        if size.is_rolling(deployment):
            self._rolling_update()
        else:
            self._recreate()
        return self._rolled_out()

    # --- strategies ------------------------------------------------------------------------------------------------

    def _rolling_update(self) -> None:
        self._sync_new()
        if self.new is None:
            self._create(size.new_size(self.deployment, self.all, 0))
            return
        if self._grow_new() or self._shrink_old():
            return
        self._clean_up_if_complete()

    def _recreate(self) -> None:
        self._sync_new()
        old_active = [rs for rs in self.old if size.wanted(rs) > 0]
        if old_active:
            for replica_set in old_active:
                self._resize(replica_set, 0)
            return
        if self._old_pods_run():
            return
        if self.new is None:
            self._create(size.replicas(self.deployment))
            return
        if not self._grow_new():
            self._clean_up_if_complete()

    def _old_pods_run(self) -> bool:
        if any(size.actual(rs) > 0 for rs in self.old):
            return True
        new_uid = objects.uid(self.new) if self.new is not None else ""
        return any(not pod_state.is_terminal(pod) for uid, pods in self.pods.items() if uid != new_uid for pod in pods)

    def _grow_new(self) -> bool:
        """Bring the new ReplicaSet nearer to its final size; whether that changed anything."""
        new = self.new
        assert new is not None
        current, target = size.wanted(new), size.replicas(self.deployment)
        if current == target:
            return False
        wanted = target if current > target else size.new_size(self.deployment, self.all, current)
        return self._resize(new, wanted)

    def _shrink_old(self) -> bool:
        """Take old pods away as far as enough stay available; whether that changed anything."""
        new = self.new
        assert new is not None
        old = [rs for rs in self.old if size.wanted(rs) > 0]
        if not old:
            return False
        minimum = size.min_available(self.deployment)
        # New pods that are not available yet will be; until then they don't count.
        new_unavailable = size.wanted(new) - size.available(new)
        may_go = size.total(self.all) - minimum - new_unavailable
        if may_go <= 0:
            return False
        changed = False
        for replica_set in old:  # unhealthy pods first: their loss costs no availability
            unhealthy = min(max(0, size.wanted(replica_set) - size.available(replica_set)), may_go)
            if unhealthy:
                changed |= self._resize(replica_set, size.wanted(replica_set) - unhealthy)
                may_go -= unhealthy
        may_go = sum(size.available(rs) for rs in self.all) - minimum
        for replica_set in self.old:
            step = min(size.wanted(replica_set), max(0, may_go))
            if step:
                changed |= self._resize(replica_set, size.wanted(replica_set) - step)
                may_go -= step
        return changed

    # --- scaling by the user ---------------------------------------------------------------------------------------

    def _is_scaling(self) -> bool:
        """Whether spec.replicas changed since an active ReplicaSet was last scaled."""
        target = size.replicas(self.deployment)
        noted = (revisions.desired_annotation(rs) for rs in self.all if size.wanted(rs) > 0)
        return any(desired is not None and desired != target for desired in noted)

    def _scale(self) -> None:
        target = size.replicas(self.deployment)
        active = [rs for rs in self.all if size.wanted(rs) > 0]
        if len(active) <= 1:
            only = active[0] if active else self.new or (self.all[-1] if self.all else None)
            if only is not None and size.wanted(only) != target:
                self._resize(only, target)
            elif only is not None:
                self._note_size(only)
            return
        if self.new is not None and self._is_saturated(self.new):
            for replica_set in active:
                if objects.name(replica_set) != self.new_name:
                    self._resize(replica_set, 0)
            return
        if size.is_rolling(self.deployment):
            for name, wanted in size.proportional(self.deployment, active).items():
                self._resize(self.drafts[name], wanted)
                self._note_size(self.drafts[name])

    def _is_saturated(self, new: apps_v1.ReplicaSet) -> bool:
        target = size.replicas(self.deployment)
        return size.wanted(new) == size.available(new) == revisions.desired_annotation(new) == target

    # --- changes of drafts -----------------------------------------------------------------------------------------

    def _resize(self, replica_set: apps_v1.ReplicaSet, wanted: int) -> bool:
        if size.wanted(replica_set) == wanted:
            return False
        assert replica_set.spec is not None
        self.drafts[objects.name(replica_set)] = msgspec.structs.replace(
            replica_set, spec=msgspec.structs.replace(replica_set.spec, replicas=wanted)
        )
        self._note_size(self.drafts[objects.name(replica_set)])
        return True

    def _note_size(self, replica_set: apps_v1.ReplicaSet) -> None:
        noted = revisions.size_annotations(size.replicas(self.deployment), size.limits(self.deployment)[0])
        self._annotate(replica_set, {**objects.meta(replica_set).annotations, **noted})

    def _annotate(self, replica_set: apps_v1.ReplicaSet, annotations: dict[str, str]) -> None:
        self.drafts[objects.name(replica_set)] = msgspec.structs.replace(
            replica_set, metadata=msgspec.structs.replace(replica_set.metadata, annotations=annotations)
        )

    def _sync_new(self) -> None:
        """Bring revision, annotations and minReadySeconds of the new ReplicaSet up to date, if there is one."""
        new = self.new
        if new is None:
            return
        assert new.spec is not None
        assert self.deployment.spec is not None
        number = revisions.next_revision(self.old)
        annotations = revisions.annotations_of_new(self.deployment, objects.meta(new).annotations, number)
        self._annotate(new, annotations)
        if (new.spec.minReadySeconds or 0) != (self.deployment.spec.minReadySeconds or 0):
            spec = msgspec.structs.replace(new.spec, minReadySeconds=self.deployment.spec.minReadySeconds)
            self.drafts[self.new_name] = msgspec.structs.replace(self.drafts[self.new_name], spec=spec)
        self.revision = annotations[revisions.REVISION]
        self._begin_progress(conditions.FOUND_NEW, f'Found new replica set "{self.new_name}"')

    def _create(self, replicas: int) -> None:
        number = revisions.next_revision(self.old)
        annotations = revisions.annotations_of_new(self.deployment, None, number)
        annotations |= revisions.size_annotations(size.replicas(self.deployment), size.limits(self.deployment)[0])
        new = revisions.new_replica_set(self.deployment, replicas=replicas, annotations=annotations)
        self.new_name = objects.name(new)
        self.drafts[self.new_name] = new
        self.revision = annotations[revisions.REVISION]
        if conditions.progress_deadline(self.deployment) is not None:
            message = f'Created new replica set "{self.new_name}"'
            fresh = conditions.make_condition(
                conditions.PROGRESSING, "True", conditions.NEW_CREATED, message, now=self.now
            )
            self.conditions = conditions.with_condition(self.conditions, fresh)

    def _begin_progress(self, reason: str, message: str) -> None:
        """Give the condition Progressing a start, where there is none."""
        if conditions.progress_deadline(self.deployment) is None:
            return
        if objects.condition(self.conditions, conditions.PROGRESSING) is None:
            fresh = conditions.make_condition(conditions.PROGRESSING, "True", reason, message, now=self.now)
            self.conditions = [*self.conditions, fresh]

    def _clean_up(self) -> None:
        limit = self.deployment.spec.revisionHistoryLimit if self.deployment.spec else None
        self.deletes = revisions.to_clean_up(self.old, limit)

    def _clean_up_if_complete(self) -> None:
        if self.deployment.status and conditions.is_complete(self.deployment, self.deployment.status):
            self._clean_up()

    # --- result ----------------------------------------------------------------------------------------------------

    def _counted(self) -> Plan:
        status = conditions.counts(self.deployment, self.new, self.all, self.conditions, self.now)
        return Plan(self._actions(), status)

    def _rolled_out(self) -> Plan:
        status = conditions.rollout(self.deployment, self.new, self.all, self.conditions, self.now)
        return Plan(self._actions(), status, conditions.check_again_in(self.deployment, status, self.now))

    def _actions(self) -> tuple[Action, ...]:
        actions: list[Action] = []
        for name, draft in self.drafts.items():
            before = self.observed.get(name)
            if before is None:
                actions.append(CreateReplicaSet(draft))
            elif before != draft:
                actions.append(UpdateReplicaSet(before, draft))
        actions.extend(DeleteReplicaSet(rs) for rs in self.deletes)
        if self.revision and objects.meta(self.deployment).annotations.get(revisions.REVISION) != self.revision:
            actions.append(SetRevision(self.revision))
        return tuple(actions)
