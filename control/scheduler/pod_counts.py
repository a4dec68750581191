"""How many placed pods of a kind each node has, for the kinds that somebody asks about.

The problem: affinity and spreading count the pods that match a selector, node by node. Going through all placed pods
for each decision costs more than everything else together.

The answer: the first question goes through the pods of the namespaces concerned; after that the counts are kept up
with every pod that is placed or leaves. Pods of the same Deployment ask the same question. Where nobody asks, nothing
is kept and nothing costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from msgspec import Struct

from control.scheduler.affinity_terms import NamespaceLabels, PodSelector
from control.scheduler.pod_info import PodInfo
from control.scheduler.row_vectors import RowVectors, Vector

KEPT = 256


class PodQuery(Struct, frozen=True):
    """Pods that all selectors match; `living` leaves out those that are being deleted."""

    selectors: tuple[PodSelector, ...]
    living: bool = False

    @property
    def scope(self) -> frozenset[str] | None:
        scopes = [s.scope for s in self.selectors]
        named = [scope for scope in scopes if scope is not None]
        return frozenset.intersection(*named) if named else None

    @property
    def asks_namespaces(self) -> bool:
        """Whether the answer depends on the labels of namespaces."""
        return any(s.namespace_labels is not None for s in self.selectors)

    def matches(self, info: PodInfo, known: NamespaceLabels) -> bool:
        if self.living and info.terminating:
            return False
        return all(s.matches(info.namespace, info.labels, known) for s in self.selectors)


class PodCounts:
    """Counts for the latest questions."""

    def __init__(self, capacity: int, namespaces: NamespaceLabels) -> None:
        self.vectors: RowVectors[PodQuery] = RowVectors(capacity)
        self._namespaces = namespaces
        self._used: OrderedDict[PodQuery, None] = OrderedDict()

    def get(self, query: PodQuery) -> Vector | None:
        """The counts, if they are kept."""
        found = self.vectors.get(query)
        if found is not None:
            self._used.move_to_end(query)
        return found

    def keep(self, query: PodQuery, placed: Iterable[tuple[PodInfo, int]]) -> Vector:
        """Count these (pod, row) that can match, and keep the counts from now on."""
        vector = self.vectors.create(query)
        self._used[query] = None
        if len(self._used) > KEPT:
            oldest, _ = self._used.popitem(last=False)
            self.vectors.drop(oldest)
        for info, row in placed:
            if query.matches(info, self._namespaces):
                vector[row] += 1.0
        return vector

    def add(self, info: PodInfo, row: int, sign: int) -> None:
        """A pod was placed (1) or left (-1)."""
        for query, vector in self.vectors.concerning(info.namespace):
            if query.matches(info, self._namespaces):
                vector[row] += sign

    def namespaces_changed(self) -> None:
        """Labels of a namespace are others now: forget what was counted by them."""
        for query in self.vectors:
            if query.asks_namespaces:
                self.vectors.drop(query)
                del self._used[query]
