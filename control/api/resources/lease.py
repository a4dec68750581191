"""Lease (Kubernetes concept: Leases): heartbeats of nodes, and who leads."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.rules import columns, fields
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("coordination.k8s.io", "v1", "leases")


def validate(obj: Object) -> list[FieldError]:
    spec = obj.get("spec") or {}
    return fields.at_least(spec, "spec", "leaseDurationSeconds", 1) + fields.at_least(
        spec, "spec", "leaseTransitions", 0
    )


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind(KIND.group, KIND.version, KIND.kind),
        columns=(
            columns.NAME,
            Column("Holder", lambda o, _: (o.get("spec") or {}).get("holderIdentity") or ""),
            columns.AGE,
        ),
        validate=validate,
    ),
)
