"""Inter-pod affinity: pods that want to be near others, or far from them, and placed pods that want it of new ones.

"Near" means in the same domain: on nodes with the same value of a label. So each term becomes a vector of how many
pods it means on each node, summed over domains. What placed pods want is in the snapshot's index of terms: a cluster in
which nobody uses affinity pays for two look-ups in empty indexes.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from control.scheduler.affinity_terms import AffinityTerm, PodTerms
from control.scheduler.plugin import MAX_SCORE, Reasons, Rows, Verdict
from control.scheduler.pod_counts import PodQuery
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot

NOT_NEAR = "node(s) didn't match pod affinity rules"
TOO_NEAR = "node(s) didn't match pod anti-affinity rules"
UNWELCOME = "node(s) didn't satisfy existing pods anti-affinity rules"

NO_TERMS = PodTerms()


def _means(term: AffinityTerm, info: PodInfo, snapshot: Snapshot) -> bool:
    """Whether the term means this pod."""
    return term.pods.matches(info.namespace, info.labels, snapshot.namespaces)


class InterPodAffinity:
    """Required affinity and anti-affinity of the pod, and required anti-affinity of placed pods against it."""

    name = "InterPodAffinity"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        terms = info.terms or NO_TERMS
        checks: list[tuple[str, Mask]] = []
        if terms.affinity:
            checks.append((NOT_NEAR, self._near(terms.affinity, info, snapshot)))
        if terms.anti_affinity:
            checks.append((TOO_NEAR, self._far(terms.anti_affinity, snapshot)))
        welcome = self._welcome(info, snapshot)
        if welcome is not None:
            checks.append((UNWELCOME, welcome))
        if not checks:
            return None
        mask = np.logical_and.reduce([passed for _, passed in checks])

        def reasons(rows: Rows) -> Reasons:
            found: Reasons = Counter()
            for phrase, passed in checks:
                kept = rows[passed[rows]]
                if len(kept) < len(rows):
                    found[phrase] = len(rows) - len(kept)
                rows = kept
            return found

        return Verdict(mask, reasons)

    @staticmethod
    def _near(terms: tuple[AffinityTerm, ...], info: PodInfo, snapshot: Snapshot) -> Mask:
        """Nodes in whose domains, for each term, is a pod that all terms mean."""
        counts = snapshot.count(PodQuery(tuple(t.pods for t in terms)))
        labelled: Mask = np.ones(len(snapshot), np.bool_)
        near = labelled.copy()
        anywhere = False
        for term in terms:
            topology = snapshot.topology(term.topology_key)
            sums = topology.sums(counts)
            anywhere = anywhere or bool(sums.any())
            labelled &= topology.labelled
            near &= sums > 0
        if not anywhere and all(_means(term, info, snapshot) for term in terms):
            return labelled  # the first of a group that wants to be together
        return near

    @staticmethod
    def _far(terms: tuple[AffinityTerm, ...], snapshot: Snapshot) -> Mask:
        """Nodes in whose domains is no pod that any term means."""
        far: Mask = np.ones(len(snapshot), np.bool_)
        for term in terms:
            far &= snapshot.topology(term.topology_key).sums(snapshot.count(PodQuery((term.pods,)))) == 0
        return far

    @staticmethod
    def _welcome(info: PodInfo, snapshot: Snapshot) -> Mask | None:
        """Nodes in whose domains no placed pod has a required anti-affinity against this pod; None: all."""
        welcome: Mask | None = None
        for term, vector in snapshot.anti_affinity.concerning(info.namespace):
            if _means(term, info, snapshot):
                free = snapshot.topology(term.topology_key).sums(vector[: len(snapshot)]) == 0
                welcome = free if welcome is None else welcome & free
        return welcome


class PreferredPodAffinity:
    """Preferred terms of the pod, preferred terms and required affinity of placed pods (InterPodAffinity's score)."""

    name, weight = "InterPodAffinity", 2.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        # summed by topology key first: one pass over the domains for each
        weights: dict[str, Vector] = {}
        for preference in (info.terms or NO_TERMS).preferred:
            counts = snapshot.count(PodQuery((preference.term.pods,)))
            _add(weights, preference.term.topology_key, counts * preference.weight)
        for preference, vector in snapshot.preferences.concerning(info.namespace):
            if _means(preference.term, info, snapshot):
                _add(weights, preference.term.topology_key, vector[: len(snapshot)] * preference.weight)
        if not weights:
            return None
        total = np.zeros(len(snapshot))
        for key, values in weights.items():
            total += snapshot.topology(key).sums(values)
        least, most = total[possible].min(), total[possible].max()
        if most <= least:
            return None
        found: Vector = ((total - least) / (most - least)).clip(0.0, 1.0) * MAX_SCORE
        return found


def _add(weights: dict[str, Vector], key: str, values: Vector) -> None:
    known = weights.get(key)
    weights[key] = values if known is None else known + values
