"""ConfigMap (Kubernetes concept: ConfigMaps)."""

from __future__ import annotations

from typing import Any

from control.api.resource import Column, Object, Resource
from control.api.rules import columns
from kube import kinds, names, schema
from kube.errors import FieldError

KIND = kinds.known("", "v1", "configmaps")
SIZE_LIMIT = 1024 * 1024


def validate_data(obj: Object, *fields: str) -> list[FieldError]:
    """Keys are file names, and all values together stay under 1 MiB (also the rule for Secrets)."""
    errors: list[FieldError] = []
    size = 0
    seen: set[str] = set()
    for field in fields:
        for key, value in (obj.get(field) or {}).items():
            path = f"{field}[{key}]"
            errors += [FieldError.invalid(path, key, message) for message in names.config_map_key(key)]
            if key in seen:
                errors.append(FieldError.invalid(path, key, f"duplicate of key present in {fields[0]}"))
            seen.add(key)
            size += len(value.encode())
    if size > SIZE_LIMIT:
        errors.append(FieldError.too_long("", "", SIZE_LIMIT))
    return errors


def validate_immutable(new: Object, old: Object, *fields: str) -> list[FieldError]:
    """Once `immutable` is true, neither it nor the data change (also the rule for Secrets)."""
    if not old.get("immutable"):
        return []
    if not new.get("immutable"):
        return [FieldError.forbidden("immutable", "field is immutable when `immutable` is set")]
    return [
        FieldError.forbidden(f, "field is immutable when `immutable` is set")
        for f in fields
        if new.get(f) != old.get(f)
    ]


def count(obj: Object, *fields: str) -> Any:
    """How many keys there are."""
    return sum(len(obj.get(f) or {}) for f in fields)


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "ConfigMap"),
        columns=(
            columns.NAME,
            Column("Data", lambda o, _: count(o, "data", "binaryData"), type="integer"),
            columns.AGE,
        ),
        validate=lambda o: validate_data(o, "data", "binaryData"),
        validate_update=lambda new, old: validate_immutable(new, old, "data", "binaryData"),
    ),
)
