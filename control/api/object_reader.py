"""The watch cache as authorizers, authenticators and admission plugins read it (`attributes.ObjectReader`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from control.api.registry import ResourceRegistry
from control.api.resource import Object
from control.api.watch_cache import ROOT, ResourceCache, WatchCache
from kube.kinds import Kind


class CacheReader:
    """ObjectReader over a WatchCache."""

    def __init__(self, cache: WatchCache, registry: ResourceRegistry) -> None:
        self._cache = cache
        self._registry = registry

    def _of(self, kind: Kind) -> ResourceCache:
        resource = self._registry.find(kind.group, kind.version, kind.plural)
        return self._cache.of_prefix(resource.prefix if resource else f"{ROOT}{kind.group_resource}/")

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """ObjectReader.get."""
        entry = self._of(kind).entries.get(f"{namespace}/{name}" if namespace else name)
        return entry.object if entry is not None else None

    def list(self, kind: Kind, namespace: str = "") -> Iterator[Object]:
        """ObjectReader.list."""
        return (entry.object for entry in self._of(kind).sorted_entries(namespace))

    def revision(self, kind: Kind) -> int:
        """ObjectReader.revision."""
        return self._of(kind).changed_revision

    def subscribe(self, kind: Kind, changed: Callable[[Object | None, Object | None], None]) -> None:
        """ObjectReader.subscribe."""
        self._of(kind).subscribe(changed)
