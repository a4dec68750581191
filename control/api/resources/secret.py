"""Secret (Kubernetes concept: Secrets)."""

from __future__ import annotations

import base64

from control.api.resource import Column, Object, Resource
from control.api.resources.config_map import count, validate_data, validate_immutable
from control.api.rules import columns, fields
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("", "v1", "secrets")
OPAQUE = "Opaque"
# What a type promises to its readers.
REQUIRED_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def default(obj: Object) -> None:
    obj.setdefault("type", OPAQUE)
    # stringData is for writing only: it is folded into data and never shown
    for key, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(str(text).encode()).decode()


def validate(obj: Object) -> list[FieldError]:
    errors = validate_data(obj, "data")
    data = obj.get("data") or {}
    for key in REQUIRED_KEYS.get(obj.get("type", ""), ()):
        if key not in data:
            errors.append(FieldError.required(f"data[{key}]"))
    if obj.get("type") == "kubernetes.io/service-account-token":
        annotations = (obj.get("metadata") or {}).get("annotations") or {}
        if not annotations.get("kubernetes.io/service-account.name"):
            errors.append(FieldError.required("metadata.annotations[kubernetes.io/service-account.name]"))
    return errors


def validate_update(new: Object, old: Object) -> list[FieldError]:
    return fields.immutable(new, old, "", "type") + validate_immutable(new, old, "data")


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("", "v1", "Secret"),
        columns=(
            columns.NAME,
            Column("Type", lambda o, _: o.get("type", "")),
            Column("Data", lambda o, _: count(o, "data"), type="integer"),
            columns.AGE,
        ),
        default=default,
        validate=validate,
        validate_update=validate_update,
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "metadata.namespace": columns.metadata_cell(o, "namespace"),
            "type": o.get("type", ""),
        },
        selectable_fields=frozenset({"metadata.name", "metadata.namespace", "type"}),
    ),
)
