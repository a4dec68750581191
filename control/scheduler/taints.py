"""Taints and tolerations: which nodes keep a pod away, and which would rather not have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from control.scheduler.plugin import MAX_SCORE, Reasons, Rows, Verdict
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import NodeRow, Snapshot
from kube.models import core_v1

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
NO_SCHEDULE = ("NoSchedule", "NoExecute")
PREFER_NO_SCHEDULE = "PreferNoSchedule"


def tolerates(tolerations: Iterable[core_v1.Toleration], taint: core_v1.Taint) -> bool:
    """Whether any toleration matches a taint."""
    return any(
        t.effect in (None, "", taint.effect)
        and t.key in (None, "", taint.key)
        and (t.operator == "Exists" or (t.operator in (None, "", "Equal") and (t.value or "") == (taint.value or "")))
        and (bool(t.key) or t.operator == "Exists")
        for t in tolerations
    )


def untolerated(taints: Iterable[core_v1.Taint], tolerations: Sequence[core_v1.Toleration]) -> core_v1.Taint | None:
    """The first taint that keeps the pod away, or None."""
    return next((t for t in taints if t.effect in NO_SCHEDULE and not tolerates(tolerations, t)), None)


def tolerated_nodes(info: PodInfo, snapshot: Snapshot) -> Mask:
    """[nodes]: no taint keeps the pod away."""
    tolerations = info.spec.tolerations
    found: Mask = snapshot.column(
        ("tolerated", _key(tolerations)), lambda row: untolerated(row.taints, tolerations) is None, np.bool_
    )
    return found


def _key(tolerations: Iterable[core_v1.Toleration]) -> tuple[tuple[str | None, ...], ...]:
    return tuple((t.key, t.operator, t.value, t.effect) for t in tolerations)


class NodeUnschedulable:
    """No cordoned nodes, unless the pod tolerates that."""

    name = "NodeUnschedulable"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        if tolerates(info.spec.tolerations, core_v1.Taint(key=UNSCHEDULABLE_TAINT, effect="NoSchedule")):
            return None
        mask = snapshot.column("schedulable", lambda row: not row.unschedulable, np.bool_)
        return Verdict(mask, "node(s) were unschedulable")


class TaintToleration:
    """No nodes with a taint of effect NoSchedule or NoExecute that the pod does not tolerate.

    A node that is not ready has such a taint (from the node lifecycle controller, or implied by the snapshot).
    """

    name = "TaintToleration"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        tolerations = info.spec.tolerations

        def reasons(rows: Rows) -> Reasons:
            found: Reasons = Counter()
            for row in rows:
                taint = untolerated(snapshot.rows[row].taints, tolerations)
                assert taint is not None
                found[f"node(s) had untolerated taint {{{taint.key}: {taint.value or ''}}}"] += 1
            return found

        return Verdict(tolerated_nodes(info, snapshot), reasons)


class PreferNoSchedule:
    """Nodes with fewer untolerated taints of effect PreferNoSchedule (kube-scheduler: TaintToleration's score)."""

    name, weight = "TaintToleration", 3.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        tolerations = info.spec.tolerations

        def count(row: NodeRow) -> int:
            return sum(t.effect == PREFER_NO_SCHEDULE and not tolerates(tolerations, t) for t in row.taints)

        counts = snapshot.column(("disliked", _key(tolerations)), count, np.float64)
        most = counts.max(initial=0.0, where=possible)
        if most == 0:
            return None
        found: Vector = (1.0 - counts / most).clip(0.0, 1.0) * MAX_SCORE
        return found
