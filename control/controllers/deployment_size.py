"""Sizes of a Deployment and its ReplicaSets: maxSurge, maxUnavailable, and proportional shares. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor

from control.controllers import deployment_revision as revisions
from kube.errors import KtoolError
from kube.models import apps_v1

RECREATE = "Recreate"
ROLLING_UPDATE = "RollingUpdate"


class PercentError(KtoolError, ValueError):
    """Neither a number nor a percentage."""


def scaled(value: int | str | None, total: int, *, round_up: bool) -> int:
    """A number as it is, a percentage (`25%`) of `total` (Kubernetes: `GetScaledValueFromIntOrPercent`)."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    digits = value.removesuffix("%")
    if digits == value or not digits.isdecimal():
        raise PercentError("not a number or percentage", found=repr(value), wanted="such as 1 or 25%")
    product = int(digits) * total
    return -(-product // 100) if round_up else product // 100


def replicas(deployment: apps_v1.Deployment) -> int:
    """`spec.replicas`, 1 if absent."""
    found = deployment.spec.replicas if deployment.spec else None
    return 1 if found is None else found


def is_rolling(deployment: apps_v1.Deployment) -> bool:
    """Whether the strategy is RollingUpdate (the default)."""
    strategy = deployment.spec.strategy if deployment.spec else None
    return strategy is None or strategy.type != RECREATE


def limits(deployment: apps_v1.Deployment) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; (0, 0) for Recreate.

    Percentages count from `spec.replicas`, surge rounded up and unavailable down. Both zero would make no step
    possible: then one pod may be unavailable.
    """
    if not is_rolling(deployment):
        return 0, 0
    strategy = deployment.spec.strategy if deployment.spec else None
    rolling = strategy.rollingUpdate if strategy else None
    wanted = replicas(deployment)
    surge = scaled("25%" if rolling is None or rolling.maxSurge is None else rolling.maxSurge, wanted, round_up=True)
    unavailable = scaled(
        "25%" if rolling is None or rolling.maxUnavailable is None else rolling.maxUnavailable, wanted, round_up=False
    )
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, wanted)


def min_available(deployment: apps_v1.Deployment) -> int:
    """How many pods must stay available during a rolling update."""
    return replicas(deployment) - limits(deployment)[1]


def wanted(replica_set: apps_v1.ReplicaSet) -> int:
    """The ReplicaSet's `spec.replicas`, 1 if absent."""
    found = replica_set.spec.replicas if replica_set.spec else None
    return 1 if found is None else found


def actual(replica_set: apps_v1.ReplicaSet) -> int:
    """Pods that the ReplicaSet has (`status.replicas`)."""
    return (replica_set.status.replicas if replica_set.status else None) or 0


def available(replica_set: apps_v1.ReplicaSet) -> int:
    """Pods of the ReplicaSet that are available."""
    return (replica_set.status.availableReplicas if replica_set.status else None) or 0


def total(replica_sets: Iterable[apps_v1.ReplicaSet]) -> int:
    """Sum of `spec.replicas`."""
    return sum(wanted(rs) for rs in replica_sets)


def new_size(deployment: apps_v1.Deployment, all_sets: Iterable[apps_v1.ReplicaSet], current: int) -> int:
    """To how many replicas the new ReplicaSet, which has `current`, may go now (Kubernetes: `NewRSNewReplicas`).

    `all_sets` includes the new one, if it exists.
    """
    target = replicas(deployment)
    if not is_rolling(deployment):
        return target
    room = target + limits(deployment)[0] - total(all_sets)
    if room <= 0:
        return current
    return current + min(room, target - current)


def proportional(deployment: apps_v1.Deployment, active: list[apps_v1.ReplicaSet]) -> dict[str, int]:
    """New size of each active ReplicaSet (by name) when the Deployment is scaled in the middle of a rollout.

    Each gets its share, so that the risk stays spread as it was; what rounding leaves over goes to the largest.
    """
    target = replicas(deployment)
    allowed = target + limits(deployment)[0] if target > 0 else 0
    to_add = allowed - total(active)
    # When growing, the larger and newer come first; when shrinking, the larger and older.
    by_age = revisions.by_age(active)
    order = sorted(reversed(by_age) if to_add > 0 else by_age, key=wanted, reverse=True)
    sizes: dict[str, int] = {}
    added = 0
    for replica_set in order:
        share = _share(deployment, replica_set, to_add - added) if to_add else 0
        sizes[replica_set.metadata.name or ""] = wanted(replica_set) + share
        added += share
    if order and to_add:
        largest = order[0].metadata.name or ""
        sizes[largest] = max(0, sizes[largest] + to_add - added)
    return sizes


def _share(deployment: apps_v1.Deployment, replica_set: apps_v1.ReplicaSet, left: int) -> int:
    """The part of `left` (pods to add, or negative to remove) that falls to a ReplicaSet."""
    mine = wanted(replica_set)
    if mine == 0 or left == 0:
        return 0
    target = replicas(deployment)
    if target == 0:
        fraction = -mine
    else:
        status = deployment.status.replicas if deployment.status else None
        before = revisions.max_annotation(replica_set) or status or mine
        fraction = floor(mine * (target + limits(deployment)[0]) / before + 0.5) - mine
    # a share never has the other sign: while growing nobody shrinks
    return max(0, min(fraction, left)) if left > 0 else min(0, max(fraction, left))
