"""Topology spread: pods of a kind spread evenly over domains (zones, hosts) (Kubernetes: Pod Topology Spread
Constraints).

A pod without constraints of its own is still spread: its owner's pods over zones and hosts, as kube-scheduler does by
default.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from msgspec import Struct

from control.scheduler.affinity_terms import PodSelector, label_selector
from control.scheduler.node_affinity import affine_nodes
from control.scheduler.plugin import MAX_SCORE, Reasons, Rows, Verdict
from control.scheduler.pod_counts import PodQuery
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot
from control.scheduler.taints import tolerated_nodes
from kube import selector

UNEVEN = "node(s) didn't match pod topology spread constraints"
NO_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"

ZONE, HOSTNAME = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
# key → tolerated skew, for pods that say nothing
DEFAULT_SPREAD = ((ZONE, 5), (HOSTNAME, 3))

DO_NOT_SCHEDULE, SCHEDULE_ANYWAY = "DoNotSchedule", "ScheduleAnyway"


class SpreadConstraint(Struct, frozen=True):
    """A constraint with its defaults filled in; `labels` selects the pods that are counted."""

    topology_key: str
    max_skew: int
    min_domains: int
    labels: selector.Selector
    honor_affinity: bool
    honor_taints: bool


def constraints_of(info: PodInfo, when_unsatisfiable: str) -> list[SpreadConstraint]:
    """The pod's constraints of one sort."""
    pod = info.pod
    assert pod is not None
    return [
        SpreadConstraint(
            topology_key=c.topologyKey or "",
            max_skew=c.maxSkew or 1,
            min_domains=c.minDomains or 1,
            labels=label_selector(c.labelSelector, pod, same=c.matchLabelKeys),
            honor_affinity=c.nodeAffinityPolicy != "Ignore",
            honor_taints=c.nodeTaintsPolicy == "Honor",
        )
        for c in info.spec.topologySpreadConstraints
        if (c.whenUnsatisfiable or DO_NOT_SCHEDULE) == when_unsatisfiable
    ]


def _labelled(constraints: list[SpreadConstraint], snapshot: Snapshot) -> Mask:
    """Nodes that belong to a domain for every constraint."""
    labelled: Mask = np.logical_and.reduce([snapshot.topology(c.topology_key).labelled for c in constraints])
    return labelled


def _counted(constraint: SpreadConstraint, info: PodInfo, snapshot: Snapshot) -> Mask:
    """Nodes whose pods count: by default those that the pod's node affinity allows, whatever their taints."""
    counted: Mask = np.ones(len(snapshot), np.bool_)
    if constraint.honor_affinity:
        affine = affine_nodes(info, snapshot)
        if affine is not None:
            counted &= affine
    if constraint.honor_taints:
        counted &= tolerated_nodes(info, snapshot)
    return counted


def _pods(constraint: SpreadConstraint, info: PodInfo, snapshot: Snapshot) -> Vector:
    """[nodes]: pods that the constraint counts; those that are about to go don't."""
    query = PodQuery((PodSelector(constraint.labels, frozenset({info.namespace})),), living=True)
    return snapshot.count(query)


class PodTopologySpread:
    """Constraints with `whenUnsatisfiable: DoNotSchedule`: no domain gets more than maxSkew ahead of the emptiest."""

    name = "PodTopologySpread"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        constraints = constraints_of(info, DO_NOT_SCHEDULE)
        if not constraints:
            return None
        labelled = _labelled(constraints, snapshot)
        even: Mask = np.ones(len(snapshot), np.bool_)
        for c in constraints:
            topology = snapshot.topology(c.topology_key)
            counted = labelled & _counted(c, info, snapshot)
            present = topology.totals(counted.astype(np.float64)) > 0
            totals = topology.totals(np.where(counted, _pods(c, info, snapshot), 0.0))
            enough = np.count_nonzero(present) >= c.min_domains
            least = totals[present].min() if enough else 0.0
            own = 1.0 if c.labels.matches(info.labels) else 0.0
            even &= totals[topology.codes] + own - least <= c.max_skew

        def reasons(rows: Rows) -> Reasons:
            without = len(rows) - int(np.count_nonzero(labelled[rows]))
            return Counter({phrase: n for phrase, n in ((NO_LABEL, without), (UNEVEN, len(rows) - without)) if n})

        return Verdict(labelled & even, reasons)


class PreferredSpread:
    """Constraints with `ScheduleAnyway`, or the defaults: emptier domains are better (PodTopologySpread's score)."""

    name, weight = "PodTopologySpread", 2.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        if not info.spec.topologySpreadConstraints:
            return self._by_owner(info, snapshot, possible)
        constraints = constraints_of(info, SCHEDULE_ANYWAY)
        if not constraints:
            return None
        labelled = _labelled(constraints, snapshot)
        cost = np.zeros(len(snapshot))
        for c in constraints:
            counts = np.where(labelled & _counted(c, info, snapshot), _pods(c, info, snapshot), 0.0)
            cost += self._cost(c.topology_key, c.max_skew, counts, possible & labelled, snapshot)
        return self._normalized(cost, possible & labelled)

    def _by_owner(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        counts = snapshot.owner_counts(info.owner)
        if not counts.any():
            return None
        cost = np.zeros(len(snapshot))
        for key, max_skew in DEFAULT_SPREAD:
            if snapshot.topology(key).size > 1:
                cost += self._cost(key, max_skew, counts, possible, snapshot)
        return self._normalized(cost, possible)

    @staticmethod
    def _cost(key: str, max_skew: int, counts: Vector, candidates: Mask, snapshot: Snapshot) -> Vector:
        """Pods in each node's domain, weighed so that a few large domains count as much as many small ones.

        maxSkew makes differences between domains matter less.
        """
        topology = snapshot.topology(key)
        labelled = topology.labelled
        if key == HOSTNAME:  # each node is its own domain
            size, pods = np.count_nonzero(candidates & labelled), counts
        else:
            size = np.count_nonzero(topology.totals(candidates.astype(np.float64)))
            pods = topology.sums(counts)
        if not size:
            return np.zeros(len(snapshot))
        return (pods * math.log(size + 2) + (max_skew - 1)) * labelled

    @staticmethod
    def _normalized(cost: Vector, candidates: Mask) -> Vector | None:
        """0 to 100, the lowest cost best; nodes without the labels get 0."""
        if not candidates.any():
            return None
        least, most = cost.min(initial=math.inf, where=candidates), cost.max(initial=0.0, where=candidates)
        found: Vector = candidates * (MAX_SCORE if most == 0 else (most + least - cost) * (MAX_SCORE / most))
        return found
