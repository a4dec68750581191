"""PriorityClass (Kubernetes concept: Pod Priority and Preemption)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource
from control.api.rules import columns, fields
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("scheduling.k8s.io", "v1", "priorityclasses")
HIGHEST_OF_USERS = 1_000_000_000
SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def default(obj: Object) -> None:
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")
    # a required number: zero when it is left out
    obj.setdefault("value", 0)


def validate(obj: Object) -> list[FieldError]:
    name, value = (obj.get("metadata") or {}).get("name", ""), obj.get("value", 0)
    if name.startswith("system-"):
        if SYSTEM.get(name) == value:
            return []
        message = "names that start with 'system-' are kept for system priority classes"
        return [FieldError.forbidden("metadata.name", message)]
    if value > HIGHEST_OF_USERS:
        message = f"must be at most {HIGHEST_OF_USERS}; higher values are kept for system priority classes"
        return [FieldError.invalid("value", value, message)]
    return fields.one_of(obj, "", "preemptionPolicy", ("Never", "PreemptLowerPriority"))


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind(KIND.group, KIND.version, KIND.kind),
        columns=(
            columns.NAME,
            Column("Value", lambda o, _: o.get("value", 0), type="integer"),
            Column("Global-Default", lambda o, _: bool(o.get("globalDefault")), type="boolean"),
            columns.AGE,
            Column("PreemptionPolicy", lambda o, _: o.get("preemptionPolicy") or "<none>", priority=1),
        ),
        default=default,
        validate=validate,
        validate_update=lambda new, old: fields.immutable(new, old, "", "value", "preemptionPolicy"),
    ),
)
