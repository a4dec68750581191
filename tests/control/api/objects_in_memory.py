"""An ObjectReader over a plain dict: what authenticators, authorizers and admission read from, without a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kube.kinds import Kind

Object = dict[str, Any]
Changed = Callable[[Object | None, Object | None], None]


class ObjectsInMemory:
    """Objects by kind; `put` and `remove` tell subscribers, as the watch cache does."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._subscribers: dict[Kind, list[Changed]] = {}
        self._revision = 0

    def put(self, kind: Kind, obj: Object) -> Object:
        metadata = obj["metadata"]
        metadata.setdefault("uid", f"uid-{metadata['name']}")
        key = (metadata.get("namespace", ""), metadata["name"])
        old = self._objects.setdefault(kind, {}).get(key)
        self._objects[kind][key] = obj
        self._tell(kind, obj, old)
        return obj

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        old = self._objects[kind].pop((namespace, name))
        self._tell(kind, None, old)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects.get(kind, {}).get((namespace, name))

    def list(self, kind: Kind, namespace: str = "") -> Iterable[Object]:
        return [o for (where, _), o in self._objects.get(kind, {}).items() if not namespace or where == namespace]

    def revision(self, kind: Kind) -> int:
        return self._revision

    def subscribe(self, kind: Kind, changed: Changed) -> None:
        self._subscribers.setdefault(kind, []).append(changed)

    def _tell(self, kind: Kind, new: Object | None, old: Object | None) -> None:
        self._revision += 1
        for changed in self._subscribers.get(kind, []):
            changed(new, old)
