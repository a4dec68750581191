"""Server-side tables and metadata-only objects (Kubernetes API concepts, "Receiving resources as Tables").

`kubectl get` prints what the server puts into the table's cells, so a kind's columns are declared with the kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api.entry import Entry
from control.api.resource import Column, Object, Resource

_DESCRIPTIONS = {
    "Name": "The name of the object, unique among the objects of its kind (in its namespace).",
    "Age": "How long ago the object was created.",
}


DEFAULT_COLUMNS = (
    Column("Name", lambda o, _: o["metadata"].get("name", ""), format="name"),
    Column("Created At", lambda o, _: o["metadata"].get("creationTimestamp", ""), type="date"),
)


def of(
    entries: Iterable[Entry], resource: Resource, metadata: Object, include_object: str, now: float
) -> dict[str, Any]:
    """A Table of objects; `include_object` is None, Metadata or Object: what each row carries besides its cells."""
    columns = resource.columns or DEFAULT_COLUMNS
    rows: list[dict[str, Any]] = []
    for entry in entries:
        obj = entry.parse()
        row: dict[str, Any] = {"cells": [column.cell(obj, now) for column in columns]}
        if include_object == "Object":
            row["object"] = obj
        elif include_object != "None":
            row["object"] = metadata_only(obj)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_definition(column) for column in columns],
        "rows": rows,
    }


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description or _DESCRIPTIONS.get(column.name, column.name),
        "priority": column.priority,
    }


def metadata_only(obj: Object) -> Object:
    """PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
