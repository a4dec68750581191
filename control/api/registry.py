"""All resources that the API server serves, by path and by kind (Kubernetes: `RESTMapper` and API group info).

Built-in kinds come from `control/api/resources/`: each module there has `RESOURCES`. Others (custom resources) are
registered and unregistered while the server runs; what derives from the registry (discovery, OpenAPI) is cached by
`generation`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator

from control.api import resources
from control.api.resource import Resource

# How preferred versions are chosen: v2 before v1, GA before beta before alpha.
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


class ResourceRegistry:
    """Resources by (group, version, plural) and (group, version, kind)."""

    def __init__(self, found: Iterable[Resource] = ()) -> None:
        self._by_resource: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0
        for resource in found:
            self.register(resource)

    @classmethod
    def builtin(cls) -> ResourceRegistry:
        """A registry with every kind of `control/api/resources/`."""
        registry = cls()
        for module in sorted(pkgutil.iter_modules(resources.__path__), key=lambda m: m.name):
            for resource in importlib.import_module(f"{resources.__name__}.{module.name}").RESOURCES:
                registry.register(resource)
        return registry

    def register(self, resource: Resource) -> None:
        """Serve a resource from now on; one of the same path is replaced."""
        kind = resource.kind
        self._by_resource[kind.group, kind.version, kind.plural] = resource
        self._by_kind[kind.group, kind.version, kind.kind] = resource
        self.generation += 1

    def unregister(self, group: str, version: str, plural: str) -> Resource | None:
        """Serve a resource no more; what is stored of it stays. The resource, or None if there was none."""
        resource = self._by_resource.pop((group, version, plural), None)
        if resource is not None:
            del self._by_kind[group, version, resource.kind.kind]
            self.generation += 1
        return resource

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """Resource as it stands in a path, or None."""
        return self._by_resource.get((group, version, plural))

    def find_kind(self, group: str, version: str, kind: str) -> Resource | None:
        """Resource of a kind, or None."""
        return self._by_kind.get((group, version, kind))

    def groups(self) -> list[str]:
        """Groups that are served; the core group (empty) first, then as they were registered."""
        found = dict.fromkeys(group for group, _, _ in self._by_resource)
        return sorted(found, key=bool)

    def versions(self, group: str) -> list[str]:
        """Versions of a group, the preferred one first."""
        found = {v for g, v, _ in self._by_resource if g == group}
        return sorted(found, key=_preference, reverse=True)

    def resources(self, group: str, version: str) -> list[Resource]:
        """Resources of a group's version, by name."""
        found = [r for (g, v, _), r in self._by_resource.items() if (g, v) == (group, version)]
        return sorted(found, key=lambda r: r.kind.plural)

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_resource.values())


def _preference(version: str) -> tuple[int, int, int, str]:
    match = _VERSION.fullmatch(version)
    if match is None:
        return (-1, 0, 0, version)
    stability = {None: 2, "beta": 1, "alpha": 0}[match[2]]
    return (stability, int(match[1]), int(match[3] or 0), version)
