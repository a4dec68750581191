"""OpenAPI v3, one document per group version (`kubectl explain`, `create`, `apply`; Kubernetes: "OpenAPI V3").

Documents are made when asked for and not kept: clients keep them, under the hash that the index tells.

kubectl reads from them whether the server checks fields itself (each PATCH has the parameter `fieldValidation`) and
whether a kind takes strategic merge patches (a media type of each PATCH's body). Without these it would ask for the
much larger OpenAPI v2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from control.api.registry import ResourceRegistry
from control.api.resource import Object, Resource
from kube import schema
from kube.schema import FieldNode, Schema, TypeNode

QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.Time"
MICRO_TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"
PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"

_SCALARS: dict[str, Object] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "boolean": {"type": "boolean"},
    "number": {"type": "number", "format": "double"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "any": {"type": "object"},
}
_SHARED: dict[str, tuple[str, Object]] = {
    "quantity": (QUANTITY, {"oneOf": [{"type": "string"}, {"type": "number"}]}),
    "intOrString": (INT_OR_STRING, {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    "time": (TIME, {"type": "string", "format": "date-time"}),
    "microTime": (MICRO_TIME, {"type": "string", "format": "date-time"}),
}
PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


def index(registry: ResourceRegistry) -> Object:
    """What `/openapi/v3` says: a relative URL for each group version."""
    paths = {}
    for group in registry.groups():
        for version in registry.versions(group):
            name = f"apis/{group}/{version}" if group else f"api/{version}"
            url = f"/openapi/v3/{name}?hash={_hash(registry, group, version)}"
            paths[name] = {"serverRelativeURL": url}
    return {"paths": paths}


@cache
def _schema_digest() -> bytes:
    return hashlib.sha256(resources.files("kube.models").joinpath("schema.json").read_bytes()).digest()


def _hash(registry: ResourceRegistry, group: str, version: str) -> str:
    digest = hashlib.sha256(_schema_digest())
    for resource in registry.resources(group, version):
        digest.update(repr((resource.kind, resource.verbs, resource.subresources)).encode())
    return digest.hexdigest().upper()


def document(registry: ResourceRegistry, group: str, version: str, *, title: str, number: str) -> Object | None:
    """The OpenAPI v3 document of a group version, or None if there is none. Takes tens of milliseconds."""
    found = registry.resources(group, version)
    if not found:
        return None
    components = _Components(schema.load(), schema.descriptions())
    schema.descriptions.cache_clear()  # half a megabyte of prose that hardly anybody asks for
    paths: Object = {}
    for resource in found:
        _add_paths(paths, resource, components)
    return {
        "openapi": "3.0.0",
        "info": {"title": title, "version": number},
        "paths": paths,
        "components": {"schemas": components.found},
    }


class _Components:
    """The schemas that a document refers to, with all that they refer to."""

    def __init__(self, definitions: Schema, prose: Mapping[str, Mapping[str, str]]) -> None:
        self.found: dict[str, Any] = {}
        self._schema = definitions
        self._prose = prose

    def reference(self, name: str) -> Object:
        """A reference to a definition, which is added."""
        if name not in self.found:
            self.found[name] = {}
            self.found[name] = self._definition(name)
        return {"$ref": f"#/components/schemas/{name}"}

    def kind(self, group: str, version: str, kind: str, type_: TypeNode | None = None) -> Object:
        """A reference to a kind's definition; an untyped object for one that has none."""
        name = self._schema.definition_name(group, version, kind)
        if name is not None:
            return self.reference(name)
        if type_ is None:
            return {"type": "object"}
        name = f"{'.'.join(reversed(group.split('.')))}.{version}.{kind}"
        if name not in self.found:
            self.found[name] = {}
            self.found[name] = {
                **self._object(type_, {}),
                "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}],
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def patch(self) -> Object:
        self.found.setdefault(PATCH, {"type": "object", "description": "A patch of the given media type."})
        return {"$ref": f"#/components/schemas/{PATCH}"}

    def _definition(self, name: str) -> Object:
        prose = self._prose.get(name, {})
        found = self._object(self._schema.definition(name), prose)
        kinds = self._schema.definitions[name].get("gvk")
        if kinds:
            found["x-kubernetes-group-version-kind"] = kinds
        return found

    def _object(self, type_: TypeNode, prose: Mapping[str, str]) -> Object:
        found: Object = {"type": "object"}
        if prose.get(""):
            found["description"] = prose[""]
        if type_.required:
            found["required"] = sorted(type_.required)
        if type_.fields:
            found["properties"] = {
                name: self._field(field, prose.get(name, "")) for name, field in type_.fields.items()
            }
        return found

    def _field(self, field: FieldNode, prose: str) -> Object:
        found = self._type(field.type)
        # what stands beside a reference would be ignored
        result: Object = {"allOf": [found], "default": {}} if "$ref" in found and field.type.fields else dict(found)
        if "$ref" in result:
            result = {"allOf": [found]}
        if prose:
            result["description"] = prose
        if field.patch_merge_key:
            result["x-kubernetes-patch-merge-key"] = field.patch_merge_key
        if field.patch_strategies:
            result["x-kubernetes-patch-strategy"] = ",".join(sorted(field.patch_strategies))
        if field.list_type:
            result["x-kubernetes-list-type"] = field.list_type
        if field.list_map_keys:
            result["x-kubernetes-list-map-keys"] = [*field.list_map_keys]
        return result

    def _type(self, type_: TypeNode) -> Object:
        if type_.scalar in _SHARED:
            name, form = _SHARED[type_.scalar]
            self.found.setdefault(name, form)
            return {"$ref": f"#/components/schemas/{name}"}
        if type_.scalar:
            return _SCALARS[type_.scalar]
        if type_.items is not None:
            return {"type": "array", "items": self._type(type_.items)}
        if type_.values is not None:
            return {"type": "object", "additionalProperties": self._type(type_.values)}
        if type_.name in self._schema.definitions:
            return self.reference(type_.name)
        return self._object(type_, {})


def _parameter(name: str, where: str = "query", type_: str = "string") -> Object:
    return {"name": name, "in": where, "schema": {"type": type_, "uniqueItems": True}, "required": where == "path"}


_LIST = (
    _parameter("allowWatchBookmarks", type_="boolean"),
    _parameter("continue"),
    _parameter("fieldSelector"),
    _parameter("labelSelector"),
    _parameter("limit", type_="integer"),
    _parameter("resourceVersion"),
    _parameter("resourceVersionMatch"),
    _parameter("sendInitialEvents", type_="boolean"),
    _parameter("timeoutSeconds", type_="integer"),
    _parameter("watch", type_="boolean"),
)
_WRITE = (_parameter("dryRun"), _parameter("fieldManager"), _parameter("fieldValidation"))
_DELETE = (
    _parameter("dryRun"),
    _parameter("gracePeriodSeconds", type_="integer"),
    _parameter("orphanDependents", type_="boolean"),
    _parameter("propagationPolicy"),
)


def _add_paths(paths: Object, resource: Resource, components: _Components) -> None:
    kind = resource.kind
    reference = components.kind(kind.group, kind.version, kind.kind, resource.type)
    listed = components.kind(kind.group, kind.version, kind.list_kind)
    collection = kind.path("{namespace}")
    verbs = ("create",) if resource.handler else resource.verbs
    place = [_parameter("namespace", "path")] if kind.namespaced else []
    operations: Object = {"parameters": place}
    if "list" in verbs:
        operations["get"] = _operation(resource, "list", _LIST, listed)
    if "create" in verbs:
        operations["post"] = _operation(resource, "post", _WRITE, reference, body=reference)
    if "deletecollection" in verbs:
        operations["delete"] = _operation(resource, "deletecollection", _DELETE, components.kind("", "v1", "Status"))
    paths[collection] = operations
    if kind.namespaced and "list" in verbs:
        paths[kind.path()] = {"get": _operation(resource, "list", _LIST, listed, suffix="ForAllNamespaces")}
    if "get" not in verbs:
        return
    place = [_parameter("name", "path"), *place]
    paths[f"{collection}/{{name}}"] = _item(resource, place, reference, components, verbs)
    for subresource in resource.subresources:
        form = components.kind(subresource.group, subresource.version, subresource.kind)
        paths[f"{collection}/{{name}}/{subresource.name}"] = _item(
            resource, place, form, components, subresource.verbs, suffix=subresource.name.capitalize()
        )


def _item(
    resource: Resource,
    place: list[Object],
    form: Object,
    components: _Components,
    verbs: tuple[str, ...],
    *,
    suffix: str = "",
) -> Object:
    operations: Object = {"parameters": place}
    if "get" in verbs:
        operations["get"] = _operation(resource, "get", (), form, suffix=suffix)
    if "create" in verbs and suffix:
        operations["post"] = _operation(resource, "post", _WRITE, form, body=form, suffix=suffix)
    if "update" in verbs:
        operations["put"] = _operation(resource, "put", _WRITE, form, body=form, suffix=suffix)
    if "patch" in verbs:
        force = _parameter("force", type_="boolean")
        operations["patch"] = _operation(resource, "patch", (*_WRITE, force), form, suffix=suffix)
        patch = components.patch()
        content = {media_type: {"schema": patch} for media_type in PATCH_TYPES}
        operations["patch"]["requestBody"] = {"content": content, "required": True}
    if "delete" in verbs:
        gone = components.kind("", "v1", "Status")
        operations["delete"] = _operation(resource, "delete", _DELETE, gone, suffix=suffix)
    return operations


def _operation(
    resource: Resource,
    action: str,
    parameters: tuple[Object, ...],
    answer: Object,
    *,
    body: Object | None = None,
    suffix: str = "",
) -> Object:
    kind = resource.kind
    group = (kind.group.partition(".")[0] or "core").capitalize()
    scope = "Namespaced" if kind.namespaced and suffix != "ForAllNamespaces" else ""
    found: Object = {
        "operationId": f"{action}{group}{kind.version.capitalize()}{scope}{kind.kind}{suffix}",
        "tags": [f"{group.lower()}_{kind.version}"],
        "parameters": [*parameters],
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    }
    if body is not None:
        found["requestBody"] = {"content": {"*/*": {"schema": body}}, "required": True}
    return found
