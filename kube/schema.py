"""What the Kubernetes API's definitions say of each type: fields, lists, maps, merge keys.

The schema is built with the package (scripts/build_models.py) and read once, when first asked. It serves the API
server's checks, strategic merge patch and OpenAPI; typed clients never need it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import orjson
from msgspec import Struct, field

SCALARS = frozenset(
    {"string", "bytes", "boolean", "number", "int32", "int64", "quantity", "intOrString", "time", "microTime", "any"}
)


class TypeNode(Struct, frozen=True):
    """A type: a scalar (`scalar` set), a list (`items`), a map (`values`) or an object (`fields`).

    Scalars: string, bytes (base64), boolean, number, int32, int64, quantity, intOrString, time, microTime, any.
    """

    name: str
    scalar: str = ""
    items: TypeNode | None = None
    values: TypeNode | None = None
    fields: dict[str, FieldNode] = field(default_factory=dict)
    required: frozenset[str] = frozenset()

    @property
    def shape(self) -> str:
        """`scalar`, `list`, `map` or `object`."""
        if self.scalar:
            return "scalar"
        if self.items is not None:
            return "list"
        return "map" if self.values is not None else "object"


class FieldNode(Struct, frozen=True):
    """A field of an object: its type and how patches merge it (strategic merge patch, server-side apply)."""

    type: TypeNode
    patch_merge_key: str = ""
    patch_strategies: frozenset[str] = frozenset()
    list_type: str = ""
    list_map_keys: tuple[str, ...] = ()


class Schema:
    """All definitions; types are built on demand and shared, so that recursive ones work."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self._types: dict[str, TypeNode] = {s: TypeNode(s, scalar=s) for s in SCALARS}
        self._by_gvk = {
            (g["group"], g["version"], g["kind"]): name
            for name, entry in definitions.items()
            for g in entry.get("gvk", ())
        }

    def definition_name(self, group: str, version: str, kind: str) -> str | None:
        """Definition's full name (`io.k8s.api.core.v1.Pod`) of a kind, or None."""
        return self._by_gvk.get((group, version, kind))

    def kind(self, group: str, version: str, kind: str) -> TypeNode:
        """Type of a kind; LookupError if the definitions have none."""
        name = self.definition_name(group, version, kind)
        if name is None:
            raise LookupError(f"no definition of {kind} in {group or 'the core group'}/{version}")
        return self.definition(name)

    def definition(self, name: str) -> TypeNode:
        """Type of a definition by its full name."""
        if name in self._types:
            return self._types[name]
        entry = self.definitions[name]
        node = TypeNode(name, fields={}, required=frozenset(entry.get("required", ())))
        self._types[name] = node
        for field_name, spec in entry["fields"].items():
            node.fields[field_name] = FieldNode(
                type=self._node(spec["type"]),
                patch_merge_key=spec.get("mergeKey", ""),
                patch_strategies=frozenset(filter(None, spec.get("strategy", "").split(","))),
                list_type=spec.get("listType", ""),
                list_map_keys=tuple(spec.get("mapKeys", ())),
            )
        return node

    def _node(self, spec: Any) -> TypeNode:
        if isinstance(spec, str):
            return self._types[spec]
        if "ref" in spec:
            return self.definition(spec["ref"])
        if "list" in spec:
            item = self._node(spec["list"])
            return TypeNode(f"[]{item.name}", items=item)
        value = self._node(spec["map"])
        return TypeNode(f"map[string]{value.name}", values=value)


@cache
def load() -> Schema:
    """The schema that was built with this package."""
    return Schema(orjson.loads(resources.files("kube.models").joinpath("schema.json").read_bytes()))


@cache
def descriptions() -> dict[str, dict[str, str]]:
    """Prose of each definition: {definition: {"": of the type, field: of the field}}; half a megabyte, for OpenAPI."""
    found: dict[str, dict[str, str]] = orjson.loads(
        resources.files("kube.models").joinpath("descriptions.json").read_bytes()
    )
    return found
