"""Numbers per node for each of several keys, kept in step with the snapshot's rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Scoped(Protocol):
    """A key that concerns pods of some namespaces only."""

    @property
    def scope(self) -> frozenset[str] | None:
        """Namespaces of the pods that the key can concern; None: any."""
        ...


K = TypeVar("K", bound=Scoped)


class RowVectors(Generic[K]):
    """key → one number per row. Keys are found by the namespaces they concern, so that others cost nothing.

    The vectors that it gives are as long as its capacity: cut them to the number of rows before use.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._vectors: dict[K, Vector] = {}
        self._by_namespace: dict[str, dict[K, None]] = {}
        self._anywhere: dict[K, None] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def __iter__(self) -> Iterator[K]:
        return iter([*self._vectors])

    def get(self, key: K) -> Vector | None:
        return self._vectors.get(key)

    def create(self, key: K) -> Vector:
        """A vector of zeros under a new key."""
        vector = self._vectors[key] = np.zeros(self._capacity)
        if key.scope is None:
            self._anywhere[key] = None
        for namespace in key.scope or ():
            self._by_namespace.setdefault(namespace, {})[key] = None
        return vector

    def drop(self, key: K) -> None:
        del self._vectors[key]
        self._anywhere.pop(key, None)
        for namespace in key.scope or ():
            keys = self._by_namespace[namespace]
            del keys[key]
            if not keys:
                del self._by_namespace[namespace]

    def concerning(self, namespace: str) -> Iterator[tuple[K, Vector]]:
        """Keys that can concern a pod of this namespace, with their vectors."""
        for keys in (self._by_namespace.get(namespace), self._anywhere):
            for key in keys or ():
                yield key, self._vectors[key]

    def add(self, key: K, row: int, amount: float) -> None:
        """Add to one number; a key that is zero everywhere is forgotten."""
        vector = self._vectors.get(key)
        if vector is None:
            vector = self.create(key)
        vector[row] += amount
        if amount < 0 and not vector.any():
            self.drop(key)

    def reserve(self, capacity: int) -> None:
        """Make room for more rows."""
        for key, vector in self._vectors.items():
            self._vectors[key] = np.pad(vector, (0, capacity - self._capacity))
        self._capacity = capacity

    def remove_row(self, row: int, last: int) -> None:
        """Row `row` is gone; row `last` takes its place."""
        for vector in self._vectors.values():
            vector[row] = vector[last]
            vector[last] = 0.0

    def purge(self) -> None:
        """Forget the keys that are zero everywhere (after rows have gone)."""
        for key in [key for key, vector in self._vectors.items() if not vector.any()]:
            self.drop(key)
