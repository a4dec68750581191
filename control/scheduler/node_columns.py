"""Vectors over all nodes that depend on nothing but what each node is: labels, taints, images.

The problem: whether a node matches a selector takes a call in Python, and there are thousands of nodes. But the pods
of one Deployment all ask the same, and nodes seldom change.

The answer: the vector is kept under a key that says what was asked, and only the rows that changed since are asked
again. So a node that joins or changes costs one call for each kept vector, not a new pass over all nodes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import DTypeLike, NDArray

KEPT = 256

R = TypeVar("R")


class _Column(Struct):
    values: NDArray[Any]
    stamp: int


class NodeColumns(Generic[R]):
    """Kept vectors over the rows of a snapshot; the least recently used are forgotten."""

    def __init__(self, rows: Sequence[R]) -> None:
        self._rows = rows
        self._columns: OrderedDict[Hashable, _Column] = OrderedDict()
        self._stamp = 0
        # for each row the stamp of its last change
        self._stamps = np.zeros(16, np.int64)

    def changed(self, row: int) -> None:
        """A row is new or has changed (in anything but its amounts)."""
        if row >= len(self._stamps):
            self._stamps = np.pad(self._stamps, (0, max(len(self._stamps), row + 1 - len(self._stamps))))
        self._stamp += 1
        self._stamps[row] = self._stamp

    def get(self, key: Hashable, value: Callable[[R], Any], dtype: DTypeLike) -> NDArray[Any]:
        """[rows]: `value` of each row. The key must say everything that `value` depends on. Do not write into it."""
        size = len(self._rows)
        column = self._columns.get(key)
        if column is None:
            values = np.fromiter((value(row) for row in self._rows), dtype, size)
            self._columns[key] = _Column(values, self._stamp)
            if len(self._columns) > KEPT:
                self._columns.popitem(last=False)
            return values
        self._columns.move_to_end(key)
        if column.stamp != self._stamp:
            if len(column.values) < size:
                column.values = np.pad(column.values, (0, max(len(column.values), size - len(column.values))))
            for row in np.flatnonzero(self._stamps[:size] > column.stamp):
                column.values[row] = value(self._rows[int(row)])
            column.stamp = self._stamp
        return column.values[:size]

    def forget(self, key: Hashable) -> None:
        """Drop a vector, if it is kept."""
        self._columns.pop(key, None)
