"""The status of a Deployment: counts, and the conditions Available, Progressing and ReplicaFailure. Pure.

`Progressing` tells how a rollout goes, in reasons that `kubectl rollout status` reads: NewReplicaSetCreated,
FoundNewReplicaSet, ReplicaSetUpdated, NewReplicaSetAvailable (done), ProgressDeadlineExceeded (stuck), DeploymentPaused
and DeploymentResumed. Its lastUpdateTime is when progress was last seen: the deadline counts from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from control.controllers import deployment_size as size
from kube import objects, times
from kube.models import apps_v1

Conditions = list[apps_v1.DeploymentCondition]

AVAILABLE = "Available"
PROGRESSING = "Progressing"
REPLICA_FAILURE = "ReplicaFailure"

NEW_AVAILABLE = "NewReplicaSetAvailable"
NEW_CREATED = "NewReplicaSetCreated"
FOUND_NEW = "FoundNewReplicaSet"
UPDATED = "ReplicaSetUpdated"
CREATE_ERROR = "ReplicaSetCreateError"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"

NO_DEADLINE = 2**31 - 1


def progress_deadline(deployment: apps_v1.Deployment) -> int | None:
    """Seconds without progress after which a rollout counts as stuck; None if it may take for ever."""
    seconds = deployment.spec.progressDeadlineSeconds if deployment.spec else None
    return None if seconds is None or seconds == NO_DEADLINE else seconds


def make_condition(type_: str, status: str, reason: str, message: str, *, now: float) -> apps_v1.DeploymentCondition:
    """A condition that begins now."""
    stamp = times.rfc3339(now)
    return apps_v1.DeploymentCondition(
        type=type_, status=status, reason=reason, message=message, lastUpdateTime=stamp, lastTransitionTime=stamp
    )


def with_condition(conditions: Conditions, fresh: apps_v1.DeploymentCondition) -> Conditions:
    """The conditions with `fresh` in them: nothing changes if status and reason are what they were."""
    current = objects.condition(conditions, fresh.type or "")
    if current is not None:
        if current.status == fresh.status and current.reason == fresh.reason:
            return conditions
        if current.status == fresh.status:
            fresh.lastTransitionTime = current.lastTransitionTime
    return [*without_condition(conditions, fresh.type or ""), fresh]


def without_condition(conditions: Conditions, type_: str) -> Conditions:
    """The conditions without the one of a type."""
    return [c for c in conditions if c.type != type_]


def counts(
    deployment: apps_v1.Deployment,
    new: apps_v1.ReplicaSet | None,
    all_sets: Sequence[apps_v1.ReplicaSet],
    conditions: Conditions,
    now: float,
) -> apps_v1.DeploymentStatus:
    """Counts over all ReplicaSets and the condition Available (Kubernetes: `calculateStatus`)."""
    available = sum(size.available(rs) for rs in all_sets)
    total = sum(size.wanted(rs) for rs in all_sets)
    if available >= size.min_available(deployment):
        fresh = make_condition(
            AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now=now
        )
    else:
        fresh = make_condition(
            AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", now=now
        )
    return apps_v1.DeploymentStatus(
        observedGeneration=objects.meta(deployment).generation,
        replicas=sum(size.actual(rs) for rs in all_sets),
        updatedReplicas=size.actual(new) if new is not None else 0,
        readyReplicas=sum((rs.status.readyReplicas or 0) if rs.status else 0 for rs in all_sets),
        availableReplicas=available,
        unavailableReplicas=max(0, total - available),
        collisionCount=deployment.status.collisionCount if deployment.status else None,
        conditions=with_condition(conditions, fresh),
    )


def is_complete(deployment: apps_v1.Deployment, status: apps_v1.DeploymentStatus) -> bool:
    """Whether all wanted replicas are of the new template and available, and no old ones are left."""
    wanted = size.replicas(deployment)
    return (
        (status.updatedReplicas or 0) == wanted
        and (status.replicas or 0) == wanted
        and (status.availableReplicas or 0) == wanted
        and (status.observedGeneration or 0) >= (objects.meta(deployment).generation or 0)
    )


def has_progressed(before: apps_v1.DeploymentStatus, after: apps_v1.DeploymentStatus) -> bool:
    """Whether there are more new, fewer old, more ready or more available replicas than before."""
    old_before = (before.replicas or 0) - (before.updatedReplicas or 0)
    old_after = (after.replicas or 0) - (after.updatedReplicas or 0)
    return (
        (after.updatedReplicas or 0) > (before.updatedReplicas or 0)
        or old_after < old_before
        or (after.readyReplicas or 0) > (before.readyReplicas or 0)
        or (after.availableReplicas or 0) > (before.availableReplicas or 0)
    )


def has_timed_out(deployment: apps_v1.Deployment, conditions: Conditions, now: float) -> bool:
    """Whether the deadline passed since progress was last seen."""
    current = objects.condition(conditions, PROGRESSING)
    deadline = progress_deadline(deployment)
    if current is None or deadline is None or current.reason == NEW_AVAILABLE:
        return False
    if current.reason == TIMED_OUT:
        return True
    return now - times.parse(current.lastUpdateTime or current.lastTransitionTime) >= deadline


def rollout(
    deployment: apps_v1.Deployment,
    new: apps_v1.ReplicaSet | None,
    all_sets: Sequence[apps_v1.ReplicaSet],
    conditions: Conditions,
    now: float,
) -> apps_v1.DeploymentStatus:
    """Status during a rollout: counts, and how it progresses (Kubernetes: `syncRolloutStatus`)."""
    status = counts(deployment, new, all_sets, conditions, now)
    before = deployment.status or apps_v1.DeploymentStatus()
    if progress_deadline(deployment) is None:
        status.conditions = without_condition(status.conditions, PROGRESSING)
    else:
        status.conditions = _progressing(deployment, new, before, status, now)
    failure = _replica_failure(new, all_sets, now)
    if failure is None:
        status.conditions = without_condition(status.conditions, REPLICA_FAILURE)
    else:
        status.conditions = with_condition(status.conditions, failure)
    return status


def _progressing(
    deployment: apps_v1.Deployment,
    new: apps_v1.ReplicaSet | None,
    before: apps_v1.DeploymentStatus,
    status: apps_v1.DeploymentStatus,
    now: float,
) -> Conditions:
    current = objects.condition(status.conditions, PROGRESSING)
    rolled_out = (status.replicas or 0) == (status.updatedReplicas or 0)
    if rolled_out and current is not None and current.reason == NEW_AVAILABLE:
        # A finished rollout stays finished: a pod that dies later is no lack of progress.
        return status.conditions
    subject = f'ReplicaSet "{objects.name(new)}"' if new is not None else f'Deployment "{objects.name(deployment)}"'
    if is_complete(deployment, status):
        message = f"{subject} has successfully progressed."
        return with_condition(status.conditions, make_condition(PROGRESSING, "True", NEW_AVAILABLE, message, now=now))
    if has_progressed(before, status):
        fresh = make_condition(PROGRESSING, "True", UPDATED, f"{subject} is progressing.", now=now)
        if current is not None and current.status == "True":
            fresh.lastTransitionTime = current.lastTransitionTime
        # replaced even if status and reason are the same: the deadline counts from here again
        return [*without_condition(status.conditions, PROGRESSING), fresh]
    if has_timed_out(deployment, status.conditions, now):
        message = f"{subject} has timed out progressing."
        return with_condition(status.conditions, make_condition(PROGRESSING, "False", TIMED_OUT, message, now=now))
    return status.conditions


def _replica_failure(
    new: apps_v1.ReplicaSet | None, all_sets: Sequence[apps_v1.ReplicaSet], now: float
) -> apps_v1.DeploymentCondition | None:
    """The new ReplicaSet's ReplicaFailure, else that of any other."""
    for replica_set in [*([new] if new is not None else []), *all_sets]:
        found = objects.condition(replica_set.status.conditions if replica_set.status else [], REPLICA_FAILURE)
        if found is not None:
            return make_condition(
                REPLICA_FAILURE, found.status or "True", found.reason or "", found.message or "", now=now
            )
    return None


def paused_conditions(deployment: apps_v1.Deployment, now: float) -> Conditions:
    """The Deployment's present conditions, with Progressing told that it was paused or resumed."""
    conditions = list(deployment.status.conditions) if deployment.status else []
    if progress_deadline(deployment) is None:
        return conditions
    current = objects.condition(conditions, PROGRESSING)
    if current is not None and current.reason == TIMED_OUT:
        return conditions
    was_paused = current is not None and current.reason == PAUSED
    is_paused = bool(deployment.spec and deployment.spec.paused)
    if is_paused == was_paused:
        return conditions
    reason, message = (PAUSED, "Deployment is paused") if is_paused else (RESUMED, "Deployment is resumed")
    return with_condition(conditions, make_condition(PROGRESSING, "Unknown", reason, message, now=now))


def check_again_in(deployment: apps_v1.Deployment, status: apps_v1.DeploymentStatus, now: float) -> float | None:
    """Seconds until the progress deadline must be looked at; None if no rollout is under way."""
    deadline = progress_deadline(deployment)
    current = objects.condition(status.conditions, PROGRESSING)
    if deadline is None or current is None or is_complete(deployment, status):
        return None
    if current.reason in (NEW_AVAILABLE, TIMED_OUT, PAUSED):
        return None
    # stamps are cut to the second: look a second later than the deadline seems to be
    return max(0.0, times.parse(current.lastUpdateTime or current.lastTransitionTime) + deadline - now) + 1.0
