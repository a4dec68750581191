"""Event, as core/v1 and as events.k8s.io/v1: two views of the same stored objects, kept for an hour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.api.resource import Column, Object, Resource
from control.api.rules import columns
from control.api.rules.columns import since
from kube import kinds, schema

CORE = kinds.known("", "v1", "events")
EVENTS = kinds.known("events.k8s.io", "v1", "events")
PREFIX = "/registry/events/"
TTL_SECONDS = 3600

# Fields that the two views name differently (left core/v1, right events.k8s.io/v1).
RENAMED = (
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("source", "deprecatedSource"),
)


def either(obj: Object, name: str) -> Any:
    """A field by its core/v1 name in whichever view the object is."""
    value = obj.get(name)
    return obj.get(dict(RENAMED).get(name, name)) if value is None else value


def convert(obj: Object, api_version: str) -> Object:
    """The object as the other view has it; the same one if it is that already."""
    if obj.get("apiVersion") == api_version:
        return obj
    to_core = api_version == "v1"
    names = {new: old for old, new in RENAMED} if to_core else dict(RENAMED)
    return {names.get(k, k): v for k, v in obj.items()} | {"apiVersion": api_version}


def view(api_version: str) -> Callable[[Object], Object]:
    """The conversion into one view."""
    return lambda obj: convert(obj, api_version)


def default(obj: Object) -> None:
    obj.setdefault("type", "Normal")


def _object(obj: Object) -> str:
    reference = either(obj, "involvedObject") or {}
    return f"{reference.get('kind', '').lower()}/{reference.get('name', '')}"


def _last(obj: Object) -> Any:
    series = (obj.get("series") or {}).get("lastObservedTime")
    created = (obj.get("metadata") or {}).get("creationTimestamp")
    return series or either(obj, "lastTimestamp") or obj.get("eventTime") or created


def _last_seen(obj: Object, now: float) -> str:
    return since(_last(obj), now)


def _count(obj: Object) -> int:
    return int((obj.get("series") or {}).get("count") or either(obj, "count") or 1)


def _source(obj: Object) -> str:
    source = either(obj, "source") or {}
    parts = (source.get("component") or either(obj, "reportingComponent"), source.get("host"))
    return ", ".join(p for p in parts if p)


def selectable(obj: Object) -> dict[str, str]:
    reference = either(obj, "involvedObject") or {}
    found = {
        "metadata.name": columns.metadata_cell(obj, "name"),
        "metadata.namespace": columns.metadata_cell(obj, "namespace"),
        "reason": obj.get("reason") or "",
        "type": obj.get("type") or "",
        "reportingComponent": either(obj, "reportingComponent") or "",
        "source": (either(obj, "source") or {}).get("component") or "",
    }
    for field in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"):
        found[f"involvedObject.{field}"] = found[f"regarding.{field}"] = reference.get(field) or ""
    return found


SELECTABLE = frozenset(selectable({}))

COLUMNS = (
    Column("Last Seen", _last_seen),
    Column("Type", lambda o, _: o.get("type") or ""),
    Column("Reason", lambda o, _: o.get("reason") or ""),
    Column("Object", lambda o, _: _object(o)),
    Column("Subobject", lambda o, _: (either(o, "involvedObject") or {}).get("fieldPath") or "", priority=1),
    Column("Source", lambda o, _: _source(o), priority=1),
    Column("Message", lambda o, _: (either(o, "message") or "").strip()),
    Column("First Seen", lambda o, now: since(either(o, "firstTimestamp") or _last(o), now), priority=1),
    Column("Count", lambda o, _: str(_count(o)), priority=1),
    Column("Name", lambda o, _: columns.metadata_cell(o, "name"), format="name", priority=1),
)

RESOURCES = tuple(
    Resource(
        kind=kind,
        type=schema.load().kind(kind.group, kind.version, kind.kind),
        columns=COLUMNS,
        default=default,
        fields=selectable,
        selectable_fields=SELECTABLE,
        ttl_seconds=TTL_SECONDS,
        storage_prefix=PREFIX,
        from_storage=view(kind.api_version),
        to_storage=view(CORE.api_version),
    )
    for kind in (CORE, EVENTS)
)
