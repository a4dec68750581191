"""Deployment (Kubernetes concept: Deployments)."""

from __future__ import annotations

from control.api.resource import Column, Object, Resource, Subresource
from control.api.rules import columns, fields
from control.api.rules.pod_defaults import default_pod_template
from control.api.rules.pod_validation import validate_pod_template
from control.api.rules.selectors import validate_template_selector
from kube import kinds, schema
from kube.errors import FieldError

KIND = kinds.known("apps", "v1", "deployments")


def default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    if isinstance(spec.get("template"), dict):
        default_pod_template(spec["template"])


def validate(obj: Object) -> list[FieldError]:
    spec = obj.get("spec") or {}
    errors = validate_template_selector(spec)
    errors += validate_pod_template(spec.get("template"), "spec.template")
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"):
        errors += fields.at_least(spec, "spec", field, 0)
    if spec.get("progressDeadlineSeconds", 600) <= spec.get("minReadySeconds", 0):
        message = "must be greater than minReadySeconds"
        errors.append(FieldError.invalid("spec.progressDeadlineSeconds", spec.get("progressDeadlineSeconds"), message))
    return errors + _validate_strategy(spec.get("strategy") or {})


def _validate_strategy(strategy: Object) -> list[FieldError]:
    path = "spec.strategy"
    errors = fields.one_of(strategy, path, "type", ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate":
        if rolling is not None:
            message = "may not be specified when strategy `type` is 'Recreate'"
            errors.append(FieldError.forbidden(f"{path}.rollingUpdate", message))
        return errors
    rolling = rolling or {}
    for field in ("maxUnavailable", "maxSurge"):
        errors += fields.int_or_percent(rolling.get(field), f"{path}.rollingUpdate.{field}")
    if not errors and all(rolling.get(f) in (0, "0%") for f in ("maxUnavailable", "maxSurge")):
        message = "may not be 0 when `maxSurge` is 0"
        found = rolling.get("maxUnavailable")
        errors.append(FieldError.invalid(f"{path}.rollingUpdate.maxUnavailable", found, message))
    return errors


def _count(obj: Object, field: str) -> int:
    return int((obj.get("status") or {}).get(field) or 0)


def _replicas(obj: Object) -> int:
    return int((obj.get("spec") or {}).get("replicas") or 0)


RESOURCES = (
    Resource(
        kind=KIND,
        type=schema.load().kind("apps", "v1", "Deployment"),
        categories=("all",),
        subresources=(
            Subresource("status", "status", "apps", "v1", "Deployment", ("get", "patch", "update")),
            Subresource("scale", "scale", "autoscaling", "v1", "Scale", ("get", "patch", "update")),
        ),
        columns=(
            columns.NAME,
            Column("Ready", lambda o, _: f"{_count(o, 'readyReplicas')}/{_replicas(o)}"),
            Column("Up-to-date", lambda o, _: _count(o, "updatedReplicas"), type="integer"),
            Column("Available", lambda o, _: _count(o, "availableReplicas"), type="integer"),
            columns.AGE,
            *columns.container_columns(),
            Column("Selector", lambda o, _: columns.selector_text((o.get("spec") or {}).get("selector")), priority=1),
        ),
        has_status=True,
        has_generation=True,
        default=default,
        validate=validate,
        validate_update=lambda new, old: fields.immutable(new["spec"], old["spec"], "spec", "selector"),
    ),
)
