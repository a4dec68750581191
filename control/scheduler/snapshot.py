"""The cluster as arrays: a row per node, a column per resource.

The problem: a decision looks at every node; at 5,000 nodes a loop in Python takes milliseconds, for each pod.

The shape of the answer: what changes with every pod (amounts requested) lives in numpy arrays, so that a filter is one
comparison over all rows. What changes rarely (labels, taints, readiness) stays as typed objects; vectors over it are
kept and mended row by row (`column`, `topology`). Which pods are where is counted only for those who ask (`count`), and
only pods with affinity terms leave theirs behind (`anti_affinity`, `preferences`).

The scheduler writes its own decisions into the snapshot at once (`place`) and does not wait for the watch to tell
them back; otherwise two pods decided in the same moment would both see the same free room. The informer's later event
for the same pod changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from msgspec import Struct, field
from numpy.typing import DTypeLike, NDArray

from control.scheduler.affinity_terms import AffinityTerm, WeightedTerm
from control.scheduler.node_columns import NodeColumns
from control.scheduler.pod_counts import PodCounts, PodQuery
from control.scheduler.pod_info import CPU, MEMORY, PODS, STORAGE, HostPort, PodInfo, amount
from control.scheduler.row_vectors import Mask, RowVectors, Vector
from kube import objects
from kube.models import core_v1

BASE_RESOURCES = (CPU, MEMORY, STORAGE, PODS)
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
UNREACHABLE_TAINT = "node.kubernetes.io/unreachable"
FIRST_ROWS = 16
HUGE = 1e30


class NodeRow(Struct):
    """What a node is, apart from its amounts.

    taints  its own, and the one that a node which is not ready is about to get
    images  normalized name → bytes
    """

    name: str
    labels: Mapping[str, str]
    taints: tuple[core_v1.Taint, ...]
    unschedulable: bool
    images: Mapping[str, int]
    host_ports: dict[HostPort, int] = field(default_factory=dict)


class Placement(Struct, frozen=True):
    """A pod that takes room on a node."""

    info: PodInfo
    node: str


class Topology(Struct, frozen=True):
    """Domains of a topology key: `codes[i]` is the number of node i's domain, 0 where it lacks the label."""

    codes: NDArray[np.intp]
    size: int

    @property
    def labelled(self) -> Mask:
        """Nodes that belong to a domain."""
        found: Mask = self.codes > 0
        return found

    def totals(self, values: Vector) -> Vector:
        """[domains]: sum of the values of each domain's nodes; number 0 is no domain and has 0."""
        found: Vector = np.bincount(self.codes, weights=values, minlength=self.size).astype(np.float64, copy=False)
        found[0] = 0.0
        return found

    def sums(self, values: Vector) -> Vector:
        """[nodes]: sum of the values of all nodes in the same domain; 0 for nodes outside."""
        found: Vector = self.totals(values)[self.codes]
        return found


class Snapshot:
    """Nodes and the pods placed on them. Rows are in no order; a removed node's row is taken by the last one."""

    def __init__(self) -> None:
        self.rows: list[NodeRow] = []
        self.row_of: dict[str, int] = {}
        self.columns: dict[str, int] = {name: i for i, name in enumerate(BASE_RESOURCES)}
        self.placements: dict[str, Placement] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        # terms that placed pods brought along: the required anti-affinity, and what counts for scores
        self.anti_affinity: RowVectors[AffinityTerm] = RowVectors(FIRST_ROWS)
        self.preferences: RowVectors[WeightedTerm] = RowVectors(FIRST_ROWS)
        self._capacity = FIRST_ROWS
        # a column per resource, contiguous
        self._allocatable = np.zeros((FIRST_ROWS, len(BASE_RESOURCES)), order="F")
        self._requested = np.zeros((FIRST_ROWS, len(BASE_RESOURCES)), order="F")
        self._scoring = np.zeros((FIRST_ROWS, 2), order="F")
        # of cpu and memory, for scores: 1 / allocatable
        self._inverse = np.zeros((FIRST_ROWS, 2), order="F")
        self._version = 0
        self._shares: tuple[Hashable, tuple[Vector, Vector]] = ((), (np.zeros(0), np.zeros(0)))
        self._node_columns: NodeColumns[NodeRow] = NodeColumns(self.rows)
        self._domains: dict[str, dict[str, int]] = {}
        self._counts = PodCounts(FIRST_ROWS, self.namespaces)
        self._owners: dict[str, dict[str, int]] = {}
        self._by_namespace: dict[str, dict[str, Placement]] = {}
        self._orphans: dict[str, dict[str, PodInfo]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def allocatable(self) -> Vector:
        """[nodes × resources]"""
        return self._allocatable[: len(self.rows)]

    @property
    def requested(self) -> Vector:
        """[nodes × resources]"""
        return self._requested[: len(self.rows)]

    @property
    def scoring(self) -> Vector:
        """[nodes × (cpu milli, memory bytes)]: requests with defaults for containers that have none."""
        return self._scoring[: len(self.rows)]

    def used_shares(self, more: tuple[int, int]) -> tuple[Vector, Vector]:
        """([nodes], [nodes]): share of cpu and of memory in use with so much more of them, at most 1; read only."""
        key = (self._version, more)
        if self._shares[0] != key:  # several scores ask for the same
            size = len(self.rows)
            cpu, memory = (
                np.minimum((self._scoring[:size, i] + more[i]) * self._inverse[:size, i], 1.0) for i in (0, 1)
            )
            self._shares = (key, (cpu, memory))
        return self._shares[1]

    # --- vectors over all nodes ------------------------------------------------------------------------------------

    def column(self, key: Hashable, value: Callable[[NodeRow], Any], dtype: DTypeLike) -> NDArray[Any]:
        """[nodes]: `value` of each node, kept under a key that must say everything that it depends on; read only."""
        return self._node_columns.get(key, value, dtype)

    def topology(self, key: str) -> Topology:
        """The domains that the label `key` makes."""
        codes = self._domains.setdefault(key, {})
        if len(codes) > 2 * len(self.rows) + 1000:
            # values of nodes long gone (host names, above all): number them afresh
            codes.clear()
            self._node_columns.forget(("topology", key))

        def code(row: NodeRow) -> int:
            value = row.labels.get(key)
            return 0 if value is None else codes.setdefault(value, len(codes) + 1)

        return Topology(self.column(("topology", key), code, np.intp), len(codes) + 1)

    def count(self, query: PodQuery) -> Vector:
        """[nodes]: how many placed pods match."""
        found = self._counts.get(query)
        if found is None:
            found = self._counts.keep(query, self._placed(query.scope))
        return found[: len(self.rows)]

    def owner_counts(self, owner: str) -> Vector:
        """[nodes]: how many pods of an owner each node has."""
        counts = np.zeros(len(self.rows))
        for node, count in self._owners.get(owner, {}).items():
            row = self.row_of.get(node)
            if row is not None:
                counts[row] = count
        return counts

    # --- changes ---------------------------------------------------------------------------------------------------

    def set_node(self, node: core_v1.Node) -> bool:
        """Add or change a node; whether anything that scheduling looks at has changed."""
        fresh = _node_row(node)
        amounts = {self._column(resource): value for resource, value in _allocatable(node).items()}
        row = self.row_of.get(fresh.name)
        if row is None:
            row = len(self.rows)
            self._reserve(row + 1)
            self.rows.append(fresh)
            self.row_of[fresh.name] = row
            self._node_columns.changed(row)
            self._set_amounts(row, amounts)
            for info in self._orphans.pop(fresh.name, {}).values():
                self._count(info, fresh.name, 1)
            return True
        fresh.host_ports = self.rows[row].host_ports
        before = self._allocatable[row].copy()
        self._set_amounts(row, amounts)
        changed = self.rows[row] != fresh
        if changed:
            self.rows[row] = fresh
            self._node_columns.changed(row)
        return changed or not np.array_equal(before, self._allocatable[row])

    def remove_node(self, name: str) -> bool:
        """Forget a node, and tell whether it was there; its pods stay known and count again if it comes back."""
        row = self.row_of.pop(name, None)
        if row is None:
            return False
        for placement in self.placements.values():
            if placement.node == name:
                self._orphans.setdefault(name, {})[placement.info.key] = placement.info
        last = len(self.rows) - 1
        if row != last:
            self.rows[row] = self.rows[last]
            self.row_of[self.rows[row].name] = row
            self._node_columns.changed(row)
        self._version += 1
        for array in (self._allocatable, self._requested, self._scoring, self._inverse):
            array[row] = array[last]
            array[last] = 0
        self.rows.pop()
        for vectors in (self._counts.vectors, self.anti_affinity, self.preferences):
            vectors.remove_row(row, last)
        self.anti_affinity.purge()
        self.preferences.purge()
        return True

    def place(self, info: PodInfo, node: str) -> bool:
        """A pod takes room on a node (assumed by us, or seen as bound). Whether that is news."""
        info = info.without_pod()
        placed = self.placements.get(info.key)
        if placed is not None:
            if placed.node == node and placed.info == info:
                return False
            self.remove(info.key)
        placement = self.placements[info.key] = Placement(info, node)
        self._by_namespace.setdefault(info.namespace, {})[info.key] = placement
        if node in self.row_of:
            self._count(info, node, 1)
        else:
            self._orphans.setdefault(node, {})[info.key] = info
        owners = self._owners.setdefault(info.owner, {})
        owners[node] = owners.get(node, 0) + 1
        return True

    def remove(self, key: str) -> bool:
        """A pod gives its room back (deleted, ended, or its binding failed); whether it had any."""
        placed = self.placements.pop(key, None)
        if placed is None:
            return False
        info, node = placed.info, placed.node
        if node in self.row_of:
            self._count(info, node, -1)
        else:
            _discard(self._orphans, node, key)
        _discard(self._by_namespace, info.namespace, key)
        owners = self._owners[info.owner]
        owners[node] -= 1
        if owners[node] <= 0:
            _discard(self._owners, info.owner, node)
        return True

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Labels of a namespace (None: it is gone), which affinity terms may ask for; whether they changed."""
        if self.namespaces.get(name) == labels:
            return False
        if labels is None:
            del self.namespaces[name]
        else:
            self.namespaces[name] = labels
        self._counts.namespaces_changed()
        return True

    def _placed(self, scope: frozenset[str] | None) -> Iterator[tuple[PodInfo, int]]:
        """Pods on known nodes in these namespaces (None: all), with their rows."""
        for namespace in self._by_namespace if scope is None else scope:
            for placement in self._by_namespace.get(namespace, {}).values():
                row = self.row_of.get(placement.node)
                if row is not None:
                    yield placement.info, row

    def _count(self, info: PodInfo, node: str, sign: int) -> None:
        row = self.row_of[node]
        self._version += 1
        for resource, value in info.requests.items():
            column = self._column(resource)  # may replace the arrays: not inside the next line
            self._requested[row, column] += sign * value
        self._scoring[row] += (sign * info.scoring[0], sign * info.scoring[1])
        ports = self.rows[row].host_ports
        for port in info.host_ports:
            ports[port] = ports.get(port, 0) + sign
            if ports[port] <= 0:
                del ports[port]
        self._counts.add(info, row, sign)
        if info.terms is not None:
            for term in info.terms.anti_affinity:
                self.anti_affinity.add(term, row, sign)
            for preference in info.terms.to_others():
                self.preferences.add(preference, row, sign)

    def _set_amounts(self, row: int, amounts: Mapping[int, int]) -> None:
        """What a node can give: column → amount."""
        self._version += 1
        self._allocatable[row] = 0
        for column, value in amounts.items():
            self._allocatable[row, column] = value
        for i, resource in enumerate((CPU, MEMORY)):
            capacity = self._allocatable[row, self.columns[resource]]
            self._inverse[row, i] = 1.0 / capacity if capacity > 0 else HUGE

    def _column(self, resource: str) -> int:
        """Column of a resource; a new one (an extended resource) widens the arrays."""
        column = self.columns.get(resource)
        if column is None:
            column = self.columns[resource] = len(self.columns)
            wider = ((0, 0), (0, 1))
            self._allocatable = np.pad(self._allocatable, wider)
            self._requested = np.pad(self._requested, wider)
        return column

    def _reserve(self, rows: int) -> None:
        if rows <= self._capacity:
            return
        taller = ((0, self._capacity), (0, 0))
        self._capacity *= 2
        self._allocatable = np.pad(self._allocatable, taller)
        self._requested = np.pad(self._requested, taller)
        self._scoring = np.pad(self._scoring, taller)
        self._inverse = np.pad(self._inverse, taller)
        for vectors in (self._counts.vectors, self.anti_affinity, self.preferences):
            vectors.reserve(self._capacity)


def image_name(name: str) -> str:
    """An image's name as it is compared: with a tag, and without what Docker Hub's names may leave out."""
    name = name.removeprefix("docker.io/").removeprefix("library/")
    last = name.rsplit("/", 1)[-1]
    return name if ":" in last or "@" in last else f"{name}:latest"


def _discard(index: dict[str, dict[str, Any]], group: str, key: str) -> None:
    """Remove a key from a group, and the group when it is empty."""
    found = index.get(group)
    if found is not None:
        found.pop(key, None)
        if not found:
            del index[group]


def _node_row(node: core_v1.Node) -> NodeRow:
    spec = node.spec or core_v1.NodeSpec()
    status = node.status or core_v1.NodeStatus()
    return NodeRow(
        name=objects.name(node),
        labels=node.metadata.labels,
        taints=(*_implied_taints(node), *spec.taints),
        unschedulable=bool(spec.unschedulable),
        images={image_name(name): image.sizeBytes or 0 for image in status.images for name in image.names},
    )


def _implied_taints(node: core_v1.Node) -> tuple[core_v1.Taint, ...]:
    """The taint that the node lifecycle controller will give a node that is not ready, if it has not yet.

    Without it the scheduler would go on for a moment to place pods on a node that just failed. As with the real
    taint, pods that tolerate it (a network's DaemonSet) still go there.
    """
    ready = objects.condition(node.status.conditions if node.status else (), "Ready")
    if ready is not None and ready.status == "True":
        return ()
    key = UNREACHABLE_TAINT if ready is not None and ready.status == "Unknown" else NOT_READY_TAINT
    given = node.spec.taints if node.spec else ()
    if any(t.key == key and t.effect == "NoSchedule" for t in given):
        return ()
    return (core_v1.Taint(key=key, effect="NoSchedule"),)


def _allocatable(node: core_v1.Node) -> dict[str, int]:
    status = node.status or core_v1.NodeStatus()
    return {r: amount(r, q) for r, q in (status.allocatable or status.capacity).items()}
