"""What the API server knows of a kind, declared in one place: one kind, one file under `control/api/resources/`.

Discovery, OpenAPI, tables and the generic handlers derive from these declarations; custom resources join the same
registry at run time. All functions here work on plain JSON data, never do I/O and never keep what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from kube.errors import FieldError
from kube.kinds import Kind
from kube.schema import TypeNode

Object = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Column(Struct, frozen=True):
    """A column of the server-side table (Kubernetes API concepts, "Receiving resources as Tables").

    `cell(obj, now)` gives the cell's value; `now` is in epoch seconds. Columns of priority above 0 are shown by
    `-o wide` only.
    """

    name: str
    cell: Callable[[Object, float], Any]
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""


class Subresource(Struct, frozen=True):
    """A subresource that is served from the object itself or by an action.

    `kind`: what its body is (GVK), e.g. Scale or Binding. `handler` names the handler (`status`, `scale`, `binding`,
    `log`, ...); handlers live in `control/api/subresources/`, one a file.
    """

    name: str
    handler: str
    group: str
    version: str
    kind: str
    verbs: tuple[str, ...]


def _nothing(*_: Any) -> None:
    return None


def _no_errors(*_: Any) -> list[FieldError]:
    return []


def _metadata_finalizers(obj: Object) -> list[str]:
    return obj.get("metadata", {}).get("finalizers") or []


def _name_and_namespace(obj: Object) -> dict[str, str]:
    metadata = obj.get("metadata", {})
    return {"metadata.name": metadata.get("name", ""), "metadata.namespace": metadata.get("namespace", "")}


class Resource(Struct, frozen=True, kw_only=True):
    """A kind as the API server serves it.

    default(obj)             fills in what the user left out (in place); idempotent
    prepare_create(obj)      in place, before validation: e.g. drops status, sets the first phase
    prepare_update(new, old) in place, before admission: e.g. keeps the status; a changed spec raises the generation
                             (the generic handler does both if `has_status`/`has_generation`)
    validate(obj)            findings about a whole object
    validate_update(new, old) findings about a change (immutable fields); `validate` runs as well
    validate_status(new, old) findings about a change through /status
    fields(obj)              the values that field selectors may ask for
    grace_period_seconds(obj) how long deletion waits by default; 0: removed at once
    finalizers(obj)          what must be done before the object goes (a Namespace has spec.finalizers as well)
    prepare_delete(obj)      in place, when deletion is asked for and has to wait (a Namespace's phase)
    from_storage(obj), to_storage(obj)
                             between this version and the stored one, for kinds that share a `storage_prefix`
    status_at_creation       whoever creates an object brings its status along
    handler                  serves the resource instead of the store, for kinds that are never stored (reviews):
                             `control/api/subresources/<handler>.py`, verb create only
    """

    kind: Kind
    type: TypeNode
    verbs: tuple[str, ...] = VERBS
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    columns: tuple[Column, ...] = ()
    has_status: bool = False
    status_at_creation: bool = False
    has_generation: bool = False
    default: Callable[[Object], None] = _nothing
    prepare_create: Callable[[Object], None] = _nothing
    prepare_update: Callable[[Object, Object], None] = _nothing
    validate: Callable[[Object], list[FieldError]] = _no_errors
    validate_update: Callable[[Object, Object], list[FieldError]] = _no_errors
    validate_status: Callable[[Object, Object], list[FieldError]] = _no_errors
    validate_name: Callable[[str], list[str]] | None = None
    fields: Callable[[Object], dict[str, str]] = _name_and_namespace
    selectable_fields: frozenset[str] = frozenset({"metadata.name", "metadata.namespace"})
    grace_period_seconds: Callable[[Object], int] | None = None
    finalizers: Callable[[Object], list[str]] = _metadata_finalizers
    prepare_delete: Callable[[Object], None] = _nothing
    from_storage: Callable[[Object], Object] | None = None
    to_storage: Callable[[Object], Object] | None = None
    handler: str = ""
    ttl_seconds: int = 0
    storage_prefix: str = ""

    def subresource(self, name: str) -> Subresource | None:
        return next((s for s in self.subresources if s.name == name), None)

    @property
    def prefix(self) -> str:
        """Where the kind's objects are in the store: `/registry/<one word>/`. Both Event kinds share one."""
        return self.storage_prefix or f"/registry/{self.kind.group_resource}/"

    def key(self, namespace: str, name: str) -> str:
        """Store key of an object."""
        return f"{self.prefix}{namespace}/{name}" if self.kind.namespaced else f"{self.prefix}{name}"
