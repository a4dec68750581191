"""The cluster as arrays: a row per node, a column per resource.

The problem: a decision looks at every node; at 5,000 nodes a loop in Python takes milliseconds, for each pod.

The shape of the answer: what changes with every pod (amounts requested) lives in numpy arrays, so that a filter is one
comparison over all rows. What changes rarely (labels, taints, readiness) stays as typed objects, and filters on it
keep their vectors until `generation` says that some node changed in that respect.

The scheduler writes its own decisions into the snapshot at once (`assume`) and does not wait for the watch to tell
them back; otherwise two pods decided in the same moment would both see the same free room. The informer's later event
for the same pod changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from control.scheduler.pod_info import CPU, MEMORY, PODS, STORAGE, HostPort, PodInfo, amount
from kube import objects
from kube.models import core_v1

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

BASE_RESOURCES = (CPU, MEMORY, STORAGE, PODS)


@dataclass(slots=True)
class NodeRow:
    """What a node is, apart from its amounts."""

    name: str
    node: core_v1.Node
    labels: Mapping[str, str]
    taints: tuple[core_v1.Taint, ...]
    unschedulable: bool
    ready: bool
    images: Mapping[str, int]
    host_ports: dict[HostPort, int] = field(default_factory=dict)


@dataclass(slots=True)
class Placement:
    """A pod that takes room on a node."""

    info: PodInfo
    node: str


class Snapshot:
    """Nodes and the pods placed on them. Rows are in no order; a removed node's row is taken by the last one."""

    def __init__(self) -> None:
        self.rows: list[NodeRow] = []
        self.row_of: dict[str, int] = {}
        self.columns: dict[str, int] = {name: i for i, name in enumerate(BASE_RESOURCES)}
        self.placements: dict[str, Placement] = {}
        # changes when any node's labels, taints, readiness or number of rows changed
        self.generation = 0
        self._allocatable = np.zeros((16, len(BASE_RESOURCES)))
        self._requested = np.zeros((16, len(BASE_RESOURCES)))
        self._scoring = np.zeros((16, 2))
        self._owners: dict[str, dict[str, int]] = {}
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

    def owner_counts(self, owner: str) -> Vector:
        """[nodes]: how many pods of an owner each node has."""
        counts = np.zeros(len(self.rows))
        for node, count in self._owners.get(owner, {}).items():
            row = self.row_of.get(node)
            if row is not None:
                counts[row] = count
        return counts

    def set_node(self, node: core_v1.Node) -> bool:
        """Add or change a node; whether anything that scheduling looks at has changed."""
        fresh = _node_row(node)
        amounts = _allocatable(node)
        row = self.row_of.get(fresh.name)
        if row is None:
            row = len(self.rows)
            self._reserve(row + 1)
            self.rows.append(fresh)
            self.row_of[fresh.name] = row
            self._requested[row] = 0
            self._scoring[row] = 0
            self._set_amounts(row, amounts)
            self.generation += 1
            for info in self._orphans.pop(fresh.name, {}).values():
                self._count(info, fresh.name, 1)
            return True
        old = self.rows[row]
        fresh.host_ports = old.host_ports
        before = self._allocatable[row].copy()
        self._set_amounts(row, amounts)
        identity = ("labels", "taints", "unschedulable", "ready", "images")
        changed = any(getattr(old, f) != getattr(fresh, f) for f in identity)
        self.rows[row] = fresh
        if changed:
            self.generation += 1
        return changed or not np.array_equal(before, self._allocatable[row][: len(before)])

    def remove_node(self, name: str) -> None:
        """Forget a node; its pods stay known and count again if it comes back."""
        row = self.row_of.pop(name, None)
        if row is None:
            return
        for placement in self.placements.values():
            if placement.node == name:
                self._orphans.setdefault(name, {})[placement.info.key] = placement.info
        last = len(self.rows) - 1
        if row != last:
            self.rows[row] = self.rows[last]
            self.row_of[self.rows[row].name] = row
            for array in (self._allocatable, self._requested, self._scoring):
                array[row] = array[last]
        self.rows.pop()
        self.generation += 1

    def place(self, info: PodInfo, node: str) -> None:
        """A pod takes room on a node (assumed by us, or seen as bound). Saying it again changes nothing."""
        placed = self.placements.get(info.key)
        if placed is not None:
            if placed.node == node and placed.info.uid == info.uid and placed.info.requests == info.requests:
                return
            self.remove(info.key)
        self.placements[info.key] = Placement(info, node)
        if node in self.row_of:
            self._count(info, node, 1)
        else:
            self._orphans.setdefault(node, {})[info.key] = info
        owners = self._owners.setdefault(info.owner, {})
        owners[node] = owners.get(node, 0) + 1

    def remove(self, key: str) -> bool:
        """A pod gives its room back (deleted, ended, or its binding failed); whether it had any."""
        placed = self.placements.pop(key, None)
        if placed is None:
            return False
        if placed.node in self.row_of:
            self._count(placed.info, placed.node, -1)
        elif placed.node in self._orphans:
            self._orphans[placed.node].pop(key, None)
        owners = self._owners[placed.info.owner]
        owners[placed.node] -= 1
        if owners[placed.node] <= 0:
            del owners[placed.node]
        if not owners:
            del self._owners[placed.info.owner]
        return True

    def _count(self, info: PodInfo, node: str, sign: int) -> None:
        row = self.row_of[node]
        for resource, value in info.requests.items():
            self._requested[row, self._column(resource)] += sign * value
        self._scoring[row] += (sign * info.scoring[0], sign * info.scoring[1])
        ports = self.rows[row].host_ports
        for port in info.host_ports:
            ports[port] = ports.get(port, 0) + sign
            if ports[port] <= 0:
                del ports[port]

    def _set_amounts(self, row: int, amounts: Mapping[str, int]) -> None:
        columns = {self._column(resource): value for resource, value in amounts.items()}
        self._allocatable[row] = 0
        for column, value in columns.items():
            self._allocatable[row, column] = value

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
        if rows <= len(self._allocatable):
            return
        taller = ((0, len(self._allocatable)), (0, 0))
        self._allocatable = np.pad(self._allocatable, taller)
        self._requested = np.pad(self._requested, taller)
        self._scoring = np.pad(self._scoring, taller)


def _node_row(node: core_v1.Node) -> NodeRow:
    spec = node.spec or core_v1.NodeSpec()
    status = node.status or core_v1.NodeStatus()
    ready = objects.condition(status.conditions, "Ready")
    return NodeRow(
        name=objects.name(node),
        node=node,
        labels=node.metadata.labels,
        taints=tuple(spec.taints),
        unschedulable=bool(spec.unschedulable),
        ready=ready is not None and ready.status == "True",
        images={name: image.sizeBytes or 0 for image in status.images for name in image.names},
    )


def _allocatable(node: core_v1.Node) -> dict[str, int]:
    status = node.status or core_v1.NodeStatus()
    return {r: amount(r, q) for r, q in (status.allocatable or status.capacity).items()}
