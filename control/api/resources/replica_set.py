"""ReplicaSet (Kubernetes concept: ReplicaSet)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, fields
from control.api.rules.pod_defaults import default_pod_template
from control.api.rules.pod_validation import validate_pod_template
from control.api.rules.selectors import validate_template_selector
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("apps", "v1", "replicasets")


def default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    if isinstance(spec.get("template"), dict):
        default_pod_template(spec["template"])


def validate(obj: Object) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors = validate_template_selector(spec)
    errors += validate_pod_template(spec.get("template"), "spec.template")
    for field in ("replicas", "minReadySeconds"):
        errors += fields.at_least(spec, "spec", field, 0)
    return errors


def _count(obj: Object, part: str, field: str) -> int:
    return int((obj.get(part) or {}).get(field) or 0)


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("apps", "v1", "ReplicaSet"),
        categories=("all",),
        subresources=(
            Subresource("status", "status", "apps", "v1", "ReplicaSet", ("get", "patch", "update")),
            Subresource("scale", "scale", "autoscaling", "v1", "Scale", ("get", "patch", "update")),
        ),
        columns=(
            columns.NAME,
            Column("Desired", lambda o, _: _count(o, "spec", "replicas"), type="integer"),
            Column("Current", lambda o, _: _count(o, "status", "replicas"), type="integer"),
            Column("Ready", lambda o, _: _count(o, "status", "readyReplicas"), type="integer"),
            columns.AGE,
            *columns.container_columns(),
            Column("Selector", lambda o, _: columns.selector_text((o.get("spec") or {}).get("selector")), priority=1),
        ),
        has_status=True,
        has_generation=True,
        default=default,
        validate=validate,
        validate_update=lambda new, old: fields.immutable(new["spec"], old["spec"], "spec", "selector"),
        fields=lambda o: {
            "metadata.name": columns.metadata_cell(o, "name"),
            "metadata.namespace": columns.metadata_cell(o, "namespace"),
            "status.replicas": str(_count(o, "status", "replicas")),
        },
        selectable_fields=frozenset({"metadata.name", "metadata.namespace", "status.replicas"}),
    ),
)
