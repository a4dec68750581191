"""Node affinity: which nodes a pod may go to (`nodeSelector`, required terms) and which it would rather go to."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np

from control.scheduler.plugin import MAX_SCORE, Verdict
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import NodeRow, Snapshot
from kube import objects, selector
from kube.models import core_v1

log = logging.getLogger(__name__)


def affine_nodes(info: PodInfo, snapshot: Snapshot) -> Mask | None:
    """[nodes]: what the nodeSelector and the required node affinity allow; None when the pod has neither."""
    spec = info.spec
    affinity = spec.affinity.nodeAffinity if spec.affinity else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity else None
    if not spec.nodeSelector and required is None:
        return None
    wanted = spec.nodeSelector.items()

    @cache
    def terms() -> list[selector.NodeSelectorTerm]:
        # read only if some node has to be asked
        found = [_term(t, info) for t in required.nodeSelectorTerms] if required else []
        return [t for t in found if t is not None]

    def accepts(row: NodeRow) -> bool:
        if not wanted <= row.labels.items():
            return False
        return required is None or any(t.matches(row.labels, row.name) for t in terms())

    names = _names(required) if required is not None else None
    if names is not None:
        # DaemonSet pods: each names its one node, so its answer would be of no use to any other pod
        mask: Mask = np.zeros(len(snapshot), np.bool_)
        for row in (snapshot.row_of[name] for name in names if name in snapshot.row_of):
            mask[row] = accepts(snapshot.rows[row])
        return mask
    key = ("affine", tuple(sorted(wanted)), objects.encode(required))
    kept: Mask = snapshot.column(key, accepts, np.bool_)
    return kept


def _term(term: Any, info: PodInfo) -> selector.NodeSelectorTerm | None:
    """A term, or None for a malformed one, which matches no node."""
    try:
        return selector.from_node_selector_term(term)
    except selector.SelectorError as error:
        log.debug("%s: a term of its node affinity matches nothing: %s", info.key, error)
        return None


def _names(required: core_v1.NodeSelector) -> set[str] | None:
    """The nodes that can match at all, if every term asks for a node by its name."""
    names: set[str] = set()
    for term in required.nodeSelectorTerms:
        own = [r for r in term.matchFields if r.key == "metadata.name" and r.operator == "In"]
        if not own:
            return None
        names.update(own[0].values)
    return names


class NodeAffinity:
    """The pod's nodeSelector and its required node affinity."""

    name = "NodeAffinity"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        mask = affine_nodes(info, snapshot)
        return None if mask is None else Verdict(mask, "node(s) didn't match Pod's node affinity/selector")


class PreferredNodeAffinity:
    """Nodes that match the pod's preferred node affinity terms (kube-scheduler: NodeAffinity's score)."""

    name, weight = "NodeAffinity", 2.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        affinity = info.spec.affinity.nodeAffinity if info.spec.affinity else None
        preferred = affinity.preferredDuringSchedulingIgnoredDuringExecution if affinity else None
        if not preferred:
            return None

        @cache
        def terms() -> list[tuple[selector.NodeSelectorTerm, int]]:
            found = [(_term(p.preference, info), p.weight or 0) for p in preferred if p.preference]
            return [(term, weight) for term, weight in found if term is not None]

        def weigh(row: NodeRow) -> int:
            return sum(weight for term, weight in terms() if term.matches(row.labels, row.name))

        sums = snapshot.column(("preferred", objects.encode(preferred)), weigh, np.float64)
        most = sums.max(initial=0.0, where=possible)
        return sums / most * MAX_SCORE if most else None
